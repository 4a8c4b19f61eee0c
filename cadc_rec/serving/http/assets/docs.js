// Shows /openapi.json: each address with its parameters, body and answers. Text is set as text.
"use strict";

const at = (id) => document.getElementById(id);
const DEEPEST = 6; // a type may contain itself

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function resolved(schema, api) {
  if (!schema || !schema.$ref) return schema || {};
  return schema.$ref.slice(2).split("/").reduce((part, key) => part[key], api);
}

function words(schema) {
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if ("const" in schema) return JSON.stringify(schema.const);
  return Array.isArray(schema.type) ? schema.type.join(" | ") : schema.type || "";
}

// A list of what a schema holds, one line a property, below one another.
function shape(given, api, depth) {
  const schema = resolved(given, api);
  const list = element("ul");
  if (depth > DEEPEST) return list;
  const required = new Set(schema.required || []);
  for (const [name, value] of Object.entries(schema.properties || {})) {
    const inner = resolved(value, api);
    const line = element("li");
    line.append(element("code", name), ` ${words(inner)}${required.has(name) ? ", required" : ""}`);
    const said = value.description || inner.description;
    if (said) line.append(element("p", said));
    const within = shape(value, api, depth + 1);
    if (within.children.length) line.append(within);
    list.append(line);
  }
  for (const part of [schema.items, ...(schema.anyOf || []), ...(schema.oneOf || [])]) {
    if (part) list.append(...shape(part, api, depth + 1).children);
  }
  return list;
}

function body(title, content, api) {
  const made = element("div", "", element("h3", title));
  for (const [type, media] of Object.entries(content || {})) {
    made.append(element("p", type));
    if (media.schema) made.append(shape(media.schema, api, 0));
  }
  return made;
}

function operation(path, method, described, api) {
  const summary = element("summary", "");
  summary.append(element("code", `${method.toUpperCase()} ${path}`), ` ${described.summary || ""}`);
  const made = element("details", "", summary);
  if (described.description) made.append(element("p", described.description));
  if ((described.parameters || []).length) {
    const list = element("ul");
    for (const one of described.parameters) {
      const line = element("li");
      line.append(element("code", one.name), ` (${one.in}) ${words(resolved(one.schema, api))}`);
      list.append(line);
    }
    made.append(element("h3", "Parameters"), list);
  }
  if (described.requestBody) {
    made.append(body("Body", resolved(described.requestBody, api).content, api));
  }
  for (const [status, answer] of Object.entries(described.responses || {})) {
    const found = resolved(answer, api);
    made.append(body(`${status}: ${found.description || ""}`, found.content, api));
  }
  return element("section", "", made);
}

async function show(event) {
  if (event) event.preventDefault();
  const key = at("key").value;
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  try {
    const response = await fetch("/openapi.json", { headers });
    at("ask").hidden = response.status !== 401 && !key;
    const api = await response.json();
    if (!response.ok) {
      at("message").textContent = api.error;
      return;
    }
    at("message").textContent = "";
    at("title").textContent = `${api.info.title} ${api.info.version}`;
    const made = [];
    for (const [path, methods] of Object.entries(api.paths)) {
      for (const [method, described] of Object.entries(methods)) {
        made.push(operation(path, method, described, api));
      }
    }
    at("paths").replaceChildren(...made);
  } catch (error) {
    at("message").textContent = `The service does not answer: ${error.message}`;
  }
}

at("ask").addEventListener("submit", show);
show();
