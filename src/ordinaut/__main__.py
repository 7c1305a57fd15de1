"""Makes ``python -m ordinaut`` the command line."""

from ordinaut.cli.main import main

if __name__ == "__main__":
    main()
