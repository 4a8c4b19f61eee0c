// A run's settings and record, in a dialog. Settings are written as lines of TOML, which the command
// line takes as a file.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const { parts, runs } = JSON.parse(byId("records").textContent);
  const dialog = byId("run");

  const key = (name) => (/^[\w-]+$/.test(name) ? name : JSON.stringify(name));
  const given = (table) => Object.entries(table).filter(([, value]) => value !== null);
  const toml = (value) => {
    if (Array.isArray(value)) return `[${value.map(toml).join(", ")}]`;
    if (value === null || typeof value !== "object") return JSON.stringify(value);
    return `{ ${given(value).map(([name, one]) => `${key(name)} = ${toml(one)}`).join(", ")} }`;
  };
  const isTable = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  const lines = (table, section, found) => {
    for (const [name, value] of given(table)) {
      if (isTable(value) && given(value).length) lines(value, `${section}${key(name)}.`, found);
      else if (!isTable(value)) found.set(section + key(name), toml(value));
    }
    return found;
  };
  const config = (run) => {
    const sections = Object.entries(run.config).map(([name, part]) => [name, parts[part]]);
    return lines(Object.fromEntries(sections), "", new Map());
  };
  const written = (settings) => settings.map(([name, value]) => `${name} = ${value}`).join("\n");
  // Only [methods.NAME] may say otherwise than the method itself does, as a variant's settings do.
  const file = (run) => {
    const settings = [...config(run)];
    const inSections = ([name]) => name.includes(".");
    const above = settings.filter((one) => !inSections(one));
    const method = key(run.record.method);
    return `${written(above)}\n\n[methods.${method}]\n${written(settings.filter(inSections))}\n`;
  };

  const differing = (run) => {
    const others = runs.filter((one) => one.study === run.study && one.set === run.set)
      .filter((one) => Object.keys(one.config).length).map(config);
    const mine = [...config(run)];
    return mine.filter(([name, value]) => others.some((one) => one.get(name) !== value));
  };

  const show = (run, buttons, button) => {
    for (const one of buttons) one.setAttribute("aria-pressed", String(one === button));
    const { record, shared } = run;
    byId("run-title").textContent = `${run.name}, ${record.dataset_title}, seed ${record.seed}`;
    byId("run-error").hidden = !record.error;
    byId("run-error").textContent = `${record.status}: ${record.error || ""}`;
    const none = "No settings: the run has no record yet.";
    byId("run-settings").textContent = Object.keys(run.config).length ? file(run) : none;
    byId("run-varying").textContent = written(differing(run)) || "none";
    const whole = { ...record };
    for (const [name, part] of Object.entries(shared)) whole[name] = parts[part];
    byId("run-record").textContent = JSON.stringify(whole, null, 2);
    byId("run-copied").textContent = "";
  };
  const open = (places) => {
    const group = byId("run-seeds");
    const buttons = places.map((place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `seed ${runs[place].record.seed}`;
      button.addEventListener("click", () => show(runs[place], buttons, button));
      return button;
    });
    group.replaceChildren(...buttons);
    group.hidden = places.length < 2;
    show(runs[places[0]], buttons, buttons[0]);
    dialog.showModal();
    dialog.scrollTop = 0;
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.runs");
    if (button) open(button.dataset.runs.split(" ").map(Number));
  });
  byId("run-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  byId("run-copy").addEventListener("click", async () => {
    const settings = byId("run-settings");
    try {
      await navigator.clipboard.writeText(settings.textContent);
      byId("run-copied").textContent = "copied";
    } catch {
      getSelection().selectAllChildren(settings);
      byId("run-copied").textContent = "selected: copy it with the keyboard";
    }
  });
})();
