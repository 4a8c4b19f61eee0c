// Views: one at a time, named by the address behind its #; and the filter of their tables' rows.
// "set-N" is the view "results" with the rows, figures and errors of one set; "everything" is all
// views below one another.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const views = [...document.querySelectorAll(".view")];
  const links = [...document.querySelectorAll("header nav a")];
  const filter = byId("filter");
  const [text, method, chosen] = ["text", "method", "set"].map((name) => byId(`filter-${name}`));
  const heading = byId("results-title");
  const [everySet, title] = [heading.textContent, document.title];
  const rows = [...document.querySelectorAll("tbody tr")].map((row) => ({
    row,
    words: row.textContent.toLowerCase(),
  }));
  let pageOfSet = "";

  const apply = () => {
    const set = pageOfSet || (chosen ? chosen.value : "");
    const wanted = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let [shown, all] = [0, 0];
    for (const { row, words } of rows) {
      const ofOverview = row.closest("#overview");
      const ofSet = !set || row.dataset.set === set;
      const matches = ofSet
        && (!method.value || row.dataset.method === method.value)
        && wanted.every((word) => words.includes(word));
      row.hidden = !ofOverview && !matches;
      if (ofOverview || row.closest(".view").hidden) continue;
      all += 1;
      shown += matches ? 1 : 0;
    }
    for (const part of document.querySelectorAll(".of-set")) {
      part.hidden = Boolean(set) && part.dataset.set !== set;
    }
    // What has nothing left to show goes with its heading.
    for (const part of document.querySelectorAll(".problems, .more, .study")) {
      part.hidden = !part.querySelector("tbody tr:not([hidden]), figure:not([hidden]), li:not([hidden])");
    }
    for (const region of document.querySelectorAll("#results .scroll, #runs .scroll")) {
      region.hidden = !region.querySelector("tbody tr:not([hidden])");
    }
    byId("filter-count").textContent = shown === all ? `${all} rows` : `${shown} of ${all} rows`;
    document.body.classList.toggle("one-set", Boolean(set));
  };

  const show = (name, focus) => {
    const ofSet = /^set-\d+$/.test(name);
    const target = byId(name) || byId("overview");
    const view = ofSet ? byId("results") : target.closest(".view") || byId("overview");
    const whole = name === "everything";
    for (const one of views) one.hidden = whole ? one.id === "runs" : one !== view;
    pageOfSet = ofSet && !whole ? name.slice(4) : "";
    // A page of a set needs no choice of one.
    if (chosen) chosen.closest("label").hidden = Boolean(pageOfSet);
    filter.hidden = !whole && !["results", "runs"].includes(view.id);
    const current = whole || ofSet ? name : view.id;
    const link = links.find((one) => one.hash === `#${current}`);
    for (const one of links) one.removeAttribute("aria-current");
    if (link) link.setAttribute("aria-current", "page");
    heading.textContent = pageOfSet && link ? link.textContent : everySet;
    document.title = link ? `${link.textContent} – ${title}` : title;
    apply();
    const inside = !whole && !ofSet && target !== view && view.contains(target);
    const goal = inside ? target : whole ? document.querySelector("h1") : view;
    if (focus) {
      const head = goal.querySelector("[tabindex='-1']");
      if (head) head.focus({ preventScroll: true });
      if (inside) goal.scrollIntoView();
      else scrollTo(0, 0);
    } else if (inside) goal.scrollIntoView();
  };
  const named = () => {
    try {
      return decodeURIComponent(location.hash.slice(1)) || "overview";
    } catch {
      return "overview";  // a lone percent sign
    }
  };

  // Links within a view move in it, and keep its set.
  for (const link of document.querySelectorAll(".studies a, .skip")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const target = byId(link.hash.slice(1));
      target.scrollIntoView();
      const head = link.matches(".skip") ? target : target.querySelector("[tabindex='-1']");
      head.focus({ preventScroll: true });
    });
  }
  addEventListener("hashchange", () => show(named(), true));
  filter.addEventListener("input", apply);
  filter.addEventListener("reset", () => setTimeout(apply));
  filter.addEventListener("submit", (event) => event.preventDefault());
  show(named(), false);
})();
