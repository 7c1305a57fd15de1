// Who signed in at /signin has a cookie, and its token for what changes something.
// fetch, not EventSource: only fetch can send a key in a header.
const byId = (id) => document.getElementById(id);
const base = "/ext/events_demo";
const LOOK_AGAIN = 2000; // ms; a message is a dead letter seconds after it was published
let streaming = false;
let looking = null;

async function csrfToken() {
  const answer = await fetch("/auth/session");
  return answer.ok ? (await answer.json()).csrf_token : "";
}

async function request(path, options = {}) {
  const headers = { "content-type": "application/json" };
  if (byId("key").value) headers.authorization = `Bearer ${byId("key").value}`;
  else if (options.method) headers["x-csrf-token"] = await csrfToken();
  return fetch(base + path, { ...options, headers });
}

function show(list, message) {
  const item = document.createElement("li");
  item.textContent = JSON.stringify(message);
  byId(list).prepend(item);
}

async function listen() {
  if (streaming) return;
  streaming = true;
  try {
    const answer = await request("/stream");
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) show("messages", JSON.parse(line.slice(5)));
      }
    }
  } finally {
    streaming = false;
  }
}

async function lookAtDead() {
  const answer = await request("/dead");
  if (!answer.ok) return;
  byId("dead").replaceChildren();
  (await answer.json()).forEach((message) => show("dead", message));
}

byId("publish").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = `{"payload": ${byId("payload").value || "null"}}`;
  listen();
  const answer = await request("/publish", { method: "POST", body });
  byId("answer").textContent = `${answer.status} ${answer.statusText}`;
  looking ??= setInterval(lookAtDead, LOOK_AGAIN);
  lookAtDead();
});
