"use strict";

const SESSION = "/auth/session";
const byId = (id) => document.getElementById(id);
let token = "";

// The server lets only paths of this host through; that an address stays here is looked at twice.
function next() {
  const wanted = document.querySelector("main").dataset.next;
  const place = new URL(wanted || "/signin", location.origin);
  return wanted && place.origin === location.origin ? place : null;
}

function show(session) {
  token = session ? session.csrf_token : "";
  byId("in").hidden = Boolean(session);
  byId("out").hidden = !session;
  byId("name").textContent = session ? session.name : "";
  if (session && next()) location.replace(next());
}

async function ask(method, options = {}) {
  const answer = await fetch(SESSION, { method, ...options });
  const said = answer.status === 204 ? null : await answer.json();
  return { ok: answer.ok, said };
}

async function changed(event, request) {
  event.preventDefault();
  byId("said").textContent = "";
  try {
    const { ok, said } = await request();
    if (ok) show(said);
    else byId("said").textContent = said.detail;
  } catch (error) {
    byId("said").textContent = String(error);
  }
}

byId("in").addEventListener("submit", (event) => changed(event, () => {
  const body = JSON.stringify({ api_key: byId("key").value.trim() });
  byId("key").value = "";
  return ask("POST", { headers: { "Content-Type": "application/json" }, body });
}));

byId("out").addEventListener("submit", (event) => changed(event, () =>
  ask("DELETE", { headers: { "X-CSRF-Token": token } })));

ask("GET").then(({ ok, said }) => show(ok ? said : null)).catch(() => show(null));
