"""``ordinaut secrets``: the keys that secrets are encrypted with."""

from __future__ import annotations

import base64
import secrets as random
from typing import Annotated

import typer
import uvloop

from ordinaut.cli.servers import load
from ordinaut.config import KEY_BYTES, Settings, load_settings, parse_keys

group = typer.Typer(no_args_is_help=True, help="Secrets: the keys that encrypt them.")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(group, name="secrets")


@group.callback()
def _group() -> None:
    """Secrets: the keys that encrypt them."""


@group.command("key")
def key(
    key_id: Annotated[str, typer.Argument(help="Its id: a-z, 0-9, _ and -.")],
) -> None:
    """Print a new key as it stands in ORDINAUT_SECRETS_KEYS; it is stored nowhere."""
    text = f"{key_id}:{base64.b64encode(random.token_bytes(KEY_BYTES)).decode()}"
    try:
        parse_keys(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(text)


@group.command("rotate")
def rotate() -> None:
    """Encrypt every secret, and those of webhooks, with the first key of ORDINAUT_SECRETS_KEYS.

    Needs the settings of the API. Safe to repeat, and while everything runs.
    """
    settings = load_settings()
    count, current = uvloop.run(_rotate(settings))
    typer.echo(f"{count} secrets were encrypted anew; all are with the key {current}")


async def _rotate(settings: Settings) -> tuple[int, str]:
    secrets, database = load("ordinaut.store.secrets"), load("ordinaut.store.database")
    webhooks = load("ordinaut.store.webhooks")
    keys = secrets.keyring(settings)
    async with database.Database(settings.database_url, size=2, pooled=settings.pooled) as db:
        count = await secrets.rotate(db, keys) + await webhooks.rotate(db, keys)
        return count, keys.current
