"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function resolve(spec, schema) {
  if (!schema || !schema.$ref) return schema || {};
  return schema.$ref.split("/").slice(1).reduce((at, part) => at[part], spec);
}

function typeOf(spec, schema) {
  const own = resolve(spec, schema);
  if (own.enum) return own.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (own.anyOf) return own.anyOf.map((one) => typeOf(spec, one)).join(" | ");
  if (own.type === "array") return `${typeOf(spec, own.items)}[]`;
  return own.format || own.type || own.title || "any";
}

function example(spec, schema, depth = 0) {
  const own = resolve(spec, schema);
  if ("default" in own) return own.default;
  if (own.enum) return own.enum[0];
  if (own.anyOf) return example(spec, own.anyOf[0], depth);
  if (own.type === "object") {
    const made = {};
    for (const name of depth < 3 ? own.required || [] : []) {
      made[name] = example(spec, (own.properties || {})[name], depth + 1);
    }
    return made;
  }
  return { array: [], integer: own.minimum || 0, number: 0, boolean: false }[own.type] ?? "";
}

function fieldTable(spec, schema) {
  const own = resolve(spec, schema);
  const rows = Object.entries(own.properties || {}).map(([name, field]) => {
    const needed = (own.required || []).includes(name) ? "required" : "";
    const said = "default" in field ? `default ${JSON.stringify(field.default)}` : needed;
    return element("tr", {},
      element("td", {}, element("code", { textContent: name })),
      element("td", { textContent: typeOf(spec, field) }),
      element("td", { textContent: said }));
  });
  return element("table", {}, ...rows);
}

function bodySchema(operation) {
  const content = operation.requestBody && operation.requestBody.content;
  return content && content["application/json"] && content["application/json"].schema;
}

// Who signed in at /signin needs no credential, but the token of the session.
async function csrfToken() {
  const answer = await fetch("./auth/session");
  return answer.ok ? (await answer.json()).csrf_token : "";
}

async function send(method, path, operation, inputs, body, output) {
  let url = path;
  const query = new URLSearchParams();
  for (const { parameter, input } of inputs) {
    if (parameter.in === "path") url = url.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    else if (parameter.in === "query" && input.value) query.append(parameter.name, input.value);
  }
  const headers = {};
  const credential = document.getElementById("credential").value.trim();
  if (credential) headers.Authorization = `Bearer ${credential}`;
  else if (method !== "get") headers["X-CSRF-Token"] = await csrfToken();
  for (const { parameter, input } of inputs) {
    if (parameter.in === "header" && input.value) headers[parameter.name] = input.value;
  }
  if (body) headers["Content-Type"] = "application/json";
  const target = "." + url + (query.size ? `?${query}` : "");
  try {
    const answer = await fetch(target, { method: method.toUpperCase(), headers, body: body || undefined });
    const text = await answer.text();
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: as it is */ }
    output.textContent = `${answer.status} ${answer.statusText}\n${shown}`;
  } catch (error) {
    output.textContent = String(error);
  }
}

function operationBlock(spec, path, method, operation) {
  const scopes = (operation.security || []).flatMap((rule) => Object.values(rule).flat());
  const rule = operation.security ? scopes.join(" or ") || "any credential" : "public";
  const summary = element("summary", {},
    element("span", { className: "method", textContent: method }),
    element("code", { textContent: path }),
    element("span", { className: "scope", textContent: rule }));
  const block = element("details", {}, summary);
  block.addEventListener("toggle", () => {
    if (block.open && block.children.length === 1) fill(spec, path, method, operation, block);
  });
  block.dataset.words = `${method} ${path} ${(operation.tags || []).join(" ")}`.toLowerCase();
  return block;
}

function fill(spec, path, method, operation, block) {
  block.append(element("p", { textContent: operation.description || "" }));
  const inputs = (operation.parameters || []).map((parameter) => {
    const input = element("input", { placeholder: typeOf(spec, parameter.schema) });
    block.append(element("p", {}, element("label", {}, `${parameter.name} `, input)));
    return { parameter, input };
  });
  const schema = bodySchema(operation);
  const body = element("textarea", { spellcheck: false });
  if (schema) {
    const own = schema.anyOf ? schema.anyOf[0] : schema;
    body.value = JSON.stringify(example(spec, own), null, 2);
    block.append(fieldTable(spec, own), body);
  }
  const output = element("pre");
  const button = element("button", { textContent: "Send" });
  button.addEventListener("click", () => send(method, path, operation, inputs, schema && body.value, output));
  block.append(button, output);
}

async function show() {
  const main = document.getElementById("operations");
  const spec = await (await fetch("openapi.json")).json();
  const groups = new Map();
  for (const [path, item] of Object.entries(spec.paths)) {
    for (const method of METHODS.filter((name) => name in item)) {
      const tag = (item[method].tags || ["other"])[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(operationBlock(spec, path, method, item[method]));
    }
  }
  main.replaceChildren(...[...groups].map(([tag, blocks]) =>
    element("section", {}, element("h2", { textContent: tag }), ...blocks)));
}

document.getElementById("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const block of document.querySelectorAll("details")) {
    block.hidden = !block.dataset.words.includes(wanted);
  }
});

show().catch((error) => { document.getElementById("operations").textContent = String(error); });
