// Graphile Worker as a peer of `./ordinaut bench queue`; benchmarks/graphile.py runs it:
//
//     node graphile.mjs VERB URL [NUMBER]
//
// with the verbs of benchmarks/peers.py. NUMBER of `drain` and `listen` is the size of the local
// queue; with 0 nothing is configured.

process.env.NO_LOG_SUCCESS = "1"; // no line for each job, as in its own benchmark
const { makeWorkerUtils, run, runMigrations, runOnce } = await import("graphile-worker");

const ENQUEUE = 1_000; // jobs in one call
const RATE = 50; // jobs a second when latency is measured

const [verb, url, number = "0"] = process.argv.slice(2);

const now = () => (performance.timeOrigin + performance.now()) / 1_000;
const report = (values) => console.log(JSON.stringify(values));

// The settings of its own benchmark, perfTest/graphile.config.js, where the size is 500.
const tuned = (size) => ({
  concurrentJobs: 24,
  maxPoolSize: 25,
  localQueue: { size, refetchDelay: { durationMs: 10 } },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
});

const options = (size, taskList) => ({
  preset: { worker: { connectionString: url, ...(size ? tuned(size) : {}) } },
  taskList,
});

async function queueing(jobs, work) {
  const utils = await makeWorkerUtils(options(0));
  const begin = now();
  await work(utils);
  report({ per_second: jobs / (now() - begin) });
  await utils.release();
}

const verbs = {
  install: () => runMigrations(options(0)),

  enqueue: (count) =>
    queueing(count, async (utils) => {
      for (let i = 0; i < count; i++) await utils.addJob("noop", {});
    }),

  fill: (count) =>
    queueing(count, async (utils) => {
      const jobs = Array.from({ length: ENQUEUE }, () => ({ identifier: "noop", payload: {} }));
      for (let i = 0; i < count; i += ENQUEUE) await utils.addJobs(jobs);
    }),

  async drain(size) {
    let first = null;
    await runOnce(options(size, { noop: () => void (first ??= now()) }));
    report({ first, last: now() });
  },

  async listen(size) {
    const late = [];
    const stamp = ({ due }) => void late.push(now() - due);
    const runner = await run(options(size, { stamp }));
    report({ ready: true });
    for await (const _ of process.stdin);
    report({ late });
    await runner.stop();
  },

  async produce(count) {
    const utils = await makeWorkerUtils(options(0));
    for (let i = 0; i < count; i++) {
      await utils.addJob("stamp", { due: now() });
      await new Promise((resolve) => setTimeout(resolve, 1_000 / RATE));
    }
    await utils.release();
  },
};

await verbs[verb](Number(number));
