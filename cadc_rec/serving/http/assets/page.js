// Shows what is recommended to a user or a session, and lets a person click a session together. All
// text is set as text, never as HTML.
"use strict";

const at = (id) => document.getElementById(id);
const session = []; // items that were taken here, the latest last
let opening = null; // what /explore/start said
const asked = {}; // counts questions of each kind: a late answer does not replace a newer one

function element(kind, text = "", className = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

const named = (item) => item.title || `Item ${item.id}`;

function button(text, label, act) {
  const made = element("button", text);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

// One item, with what can be done with it.
function line(item) {
  const entry = element("li");
  const name = element("span", named(item), "name");
  name.append(element("span", item.id, "id"));
  if (item.near) {
    const how = `nearest in the history: ${item.near} (${item.cosine.toFixed(2)})`;
    name.append(element("span", how, "near"));
  }
  entry.append(name);
  if (item.score !== undefined) {
    const score = Number.isInteger(item.score) ? item.score : item.score.toFixed(3);
    entry.append(element("span", score, "score"));
  }
  const acts = element("span", "", "acts");
  if (!session.some((other) => other.id === item.id)) {
    acts.append(button("Take", `Take ${named(item)}`, () => take(item)));
  }
  acts.append(button("Similar", `Similar to ${named(item)}`, () => showSimilar(item)));
  entry.append(acts);
  return entry;
}

// Replaces a list's entries. The keyboard stays where it was: a person goes on at the same place.
function fill(list, entries) {
  const buttons = [...list.querySelectorAll("button")];
  const place = buttons.indexOf(document.activeElement);
  list.replaceChildren(...entries);
  const now = list.querySelectorAll("button");
  if (place >= 0 && now.length) now[Math.min(place, now.length - 1)].focus();
}

// A whole number that a double would round, as a BigInt, in browsers that tell its digits.
function exact(key, value, told) {
  const rounded = Number.isInteger(value) && !Number.isSafeInteger(value);
  return rounded && /^-?[0-9]+$/.test(told?.source ?? "") ? BigInt(told.source) : value;
}

// The answer; null of a refusal, which is shown; undefined where the same was asked anew meanwhile.
async function get(path, query = []) {
  const mine = (asked[path] = (asked[path] ?? 0) + 1);
  const headers = at("key").value ? { authorization: `Bearer ${at("key").value}` } : {};
  at("message").textContent = "";
  try {
    const response = await fetch(`${path}?${new URLSearchParams(query)}`, { headers });
    const answer = JSON.parse(await response.text(), exact);
    if (mine !== asked[path]) return undefined;
    if (response.ok) return answer;
    if (response.status === 401) {
      at("key-field").hidden = false;
      at("key").focus();
    }
    at("message").textContent = answer.error;
  } catch {
    if (mine !== asked[path]) return undefined;
    at("message").textContent = "The service does not answer.";
  }
  return null;
}

function take(item) {
  session.push({ id: item.id, title: item.title });
  changed();
}

function changed() {
  showSession();
  if (opening) fill(at("popular"), opening.popular.map(line));
  ask();
}

function showSession() {
  at("session").hidden = session.length === 0;
  at("modes").hidden = !(opening && opening.reads_sessions && at("user").value.trim());
  const chips = session.map((item, place) => {
    const chip = element("li");
    const drop = () => {
      session.splice(place, 1);
      changed();
    };
    chip.append(button(`${named(item)} ×`, `Remove ${named(item)} from the session`, drop));
    return chip;
  });
  fill(at("clicked"), chips);
}

function showFilters(filters) {
  const fields = filters.map((attribute) => {
    const words = attribute.name.replaceAll("_", " ");
    const field = element("label", words[0].toUpperCase() + words.slice(1));
    const select = element("select");
    select.name = attribute.name;
    select.append(new Option("any", ""));
    attribute.values.forEach((value, n) => select.append(new Option(value, n)));
    select.addEventListener("change", () => ask());
    field.append(select);
    return field;
  });
  at("filters").replaceChildren(...fields);
}

function chosen() {
  const found = []; // as JSON, which has no BigInt of its own
  for (const select of at("filters").querySelectorAll("select")) {
    if (select.value !== "") {
      const { values } = opening.filters.find((one) => one.name === select.name);
      const value = values[Number(select.value)];
      const text = typeof value === "bigint" ? String(value) : JSON.stringify(value);
      found.push(`${JSON.stringify(select.name)}:[${text}]`);
    }
  }
  return found.length ? `{${found.join()}}` : "";
}

async function ask() {
  const user = at("user").value.trim();
  const query = [["user", user], ["k", at("k").value], ["filter", chosen()]];
  for (const item of session) query.push(["history", item.id]);
  query.push(["history_mode", document.querySelector("input[name=mode]:checked").value]);
  const began = performance.now();
  const answer = await get("/explore", query);
  if (answer === undefined) return;
  at("answer").hidden = at("past").hidden = answer === null;
  if (answer) {
    show(answer, performance.now() - began);
    showSession();
  }
}

function show(answer, waited) {
  showBundle(answer);
  at("why").textContent = answer.why;
  fill(at("recommended"), answer.recommended.map(line));
  fill(at("taken"), answer.taken.map(line));
  const all = answer.taken_in_all;
  at("past").hidden = all === 0;
  at("taken-in-all").textContent =
    all > answer.taken.length ? `the latest ${answer.taken.length} of ${all}` : `${all}`;
  at("latency").textContent =
    `Answered in ${answer.milliseconds.toFixed(2)} ms; ` +
    `${waited.toFixed(1)} ms with the way there and back.`;
}

async function showSimilar(item) {
  const found = await get("/explore/similar", [["item", item.id], ["k", at("k").value]]);
  if (!found) return;
  at("like-title").textContent = `Similar to ${named(item)}`;
  at("similar").replaceChildren(...found.map(line));
  at("like").hidden = false;
  at("like-title").focus();
}

function showBundle(answer) {
  const sizes = opening
    ? ` · ${opening.users.toLocaleString("en")} users, ${opening.items.toLocaleString("en")} items`
    : "";
  at("bundle").textContent = `${answer.bundle} · version ${answer.version}${sizes}`;
}

function choose(user) {
  at("user").value = user;
  ask();
}

async function open() {
  const found = await get("/explore/start");
  if (!found) return;
  opening = found;
  showBundle(opening);
  showFilters(opening.filters);
  const users = opening.sample_users.map((user) =>
    button(`${user.id} (${user.taken})`, `User ${user.id}, who took ${user.taken}`, () =>
      choose(user.id)));
  at("sample-users").replaceChildren(...users);
  at("samples").hidden = users.length === 0;
  fill(at("popular"), opening.popular.map(line));
  at("most").hidden = opening.popular.length === 0;
}

at("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!opening) await open(); // the key is there now
  if (at("key-field").hidden || at("key").value) ask();
});
at("clear").addEventListener("click", () => {
  session.length = 0;
  changed();
  at("user").focus();
});
at("close").addEventListener("click", () => {
  at("like").hidden = true;
  at("answer-title").scrollIntoView({ block: "nearest" });
});
for (const mode of document.querySelectorAll("input[name=mode]")) {
  mode.addEventListener("change", () => ask());
}
open();
