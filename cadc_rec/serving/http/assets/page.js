// Asks for one user's recommendations and shows them. All text is set as text, never as HTML.
"use strict";

const at = (id) => document.getElementById(id);

const SOURCES = {
  known: "by this user's own vector",
  history: "by the history that was sent",
  popularity: "by popularity: this user is unknown",
};

function line(item, withScore) {
  const entry = document.createElement("li");
  const name = document.createElement("span");
  name.textContent = item.title || `Item ${item.id}`;
  const id = document.createElement("span");
  id.className = "id";
  id.textContent = item.id;
  name.append(id);
  entry.append(name);
  if (withScore) {
    const score = document.createElement("span");
    score.className = "score";
    score.textContent = Number.isInteger(item.score) ? item.score : item.score.toFixed(3);
    entry.append(score);
  }
  return entry;
}

function show(answer, waited) {
  at("bundle").textContent = `${answer.bundle} · version ${answer.version}`;
  at("source").textContent = SOURCES[answer.source];
  at("recommended").replaceChildren(...answer.recommended.map((item) => line(item, true)));
  at("taken").replaceChildren(...answer.taken.map((item) => line(item, false)));
  const all = answer.taken_in_all;
  at("taken-in-all").textContent =
    all > answer.taken.length ? `the latest ${answer.taken.length} of ${all}` : `${all}`;
  at("latency").textContent =
    `Answered in ${answer.milliseconds.toFixed(2)} ms; ` +
    `${waited.toFixed(1)} ms with the way there and back.`;
  at("answer").hidden = false;
}

async function ask(event) {
  event.preventDefault();
  at("message").textContent = "";
  const query = new URLSearchParams({ user: at("user").value.trim(), k: at("k").value });
  const headers = at("key").value ? { authorization: `Bearer ${at("key").value}` } : {};
  try {
    const began = performance.now();
    const response = await fetch(`/explore?${query}`, { headers });
    const answer = await response.json();
    if (response.ok) {
      show(answer, performance.now() - began);
      return;
    }
    if (response.status === 401) {
      at("key-field").hidden = false;
      at("key").focus();
    }
    at("message").textContent = answer.error;
  } catch {
    at("message").textContent = "The service does not answer.";
  }
  at("answer").hidden = true;
  at("latency").textContent = "";
}

at("ask").addEventListener("submit", ask);
