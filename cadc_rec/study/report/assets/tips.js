// Values of charts and tables by pointer and by keyboard, and charts as tables. What a chart's mark
// is called is its value. A chart is one stop of the Tab key; arrow keys go from mark to mark.
"use strict";
(() => {
  const NEAR = 24; // pixels from a mark, at which the pointer means it
  const tip = document.getElementById("tip");
  let shown = null;
  const hide = () => {
    if (shown) {
      shown.removeAttribute("aria-describedby");
      shown.classList.remove("near");
    }
    shown = null;
    tip.hidden = true;
  };
  const show = (target, x, y) => {
    if (shown !== target) {
      hide();
      shown = target;
      tip.textContent = target.dataset.tip;
      tip.hidden = false;
      target.setAttribute("aria-describedby", "tip");
      target.classList.add("near");
    }
    const box = tip.getBoundingClientRect();
    const left = x + 14 + box.width > innerWidth ? x - 14 - box.width : x + 14;
    const top = y + 14 + box.height > innerHeight ? y - 14 - box.height : y + 14;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, top)}px`;
  };

  const marksOf = (chart) => [...chart.querySelectorAll("[aria-roledescription=value]")];
  for (const chart of document.querySelectorAll(".chart")) {
    const marks = marksOf(chart);
    marks.forEach((mark, place) => {
      mark.dataset.tip = mark.getAttribute("aria-label");
      mark.setAttribute("tabindex", place ? -1 : 0);
      mark.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        const next = event.key === "Home" ? marks[0]
          : event.key === "End" ? marks[marks.length - 1] : step && marks[place + step];
        if (!next || next === mark) return;
        event.preventDefault();
        mark.setAttribute("tabindex", -1);
        next.setAttribute("tabindex", 0);
        next.focus();
      });
    });
  }

  const away = (box, x, y) => {
    const across = Math.max(box.left - x, 0, x - box.right);
    const along = Math.max(box.top - y, 0, y - box.bottom);
    return Math.hypot(across, along);
  };
  // A finger, or a pointer beside a mark: the nearest one is meant.
  const nearest = (chart, x, y) => {
    let [found, least] = [null, NEAR];
    for (const mark of marksOf(chart)) {
      const distance = away(mark.getBoundingClientRect(), x, y);
      if (distance < least) [found, least] = [mark, distance];
    }
    return found;
  };
  const meant = (event) => {
    if (!event.target.closest) return null;
    const chart = event.target.closest(".chart");
    return event.target.closest("[data-tip]")
      || (chart && nearest(chart, event.clientX, event.clientY));
  };
  const follow = (event) => {
    const target = meant(event);
    if (target) show(target, event.clientX, event.clientY);
    else hide();
  };
  document.addEventListener("pointermove", follow);
  document.addEventListener("pointerdown", follow);
  document.addEventListener("pointerleave", hide);
  document.addEventListener("focusin", (event) => {
    const target = event.target.closest("[data-tip]");
    if (!target || !event.target.matches(":focus-visible")) return;
    const box = target.getBoundingClientRect();
    show(target, box.left, box.bottom - 8);
  });
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", hide, true);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());

  // A chart's values as a table, made when it is asked for: a row a mark, a column a line of it.
  for (const details of document.querySelectorAll("details.values")) {
    details.addEventListener("toggle", () => {
      if (!details.open || details.querySelector("table")) return;
      const table = document.createElement("table");
      table.className = "values";
      const head = table.createTHead().insertRow();
      for (const name of ["of", "value", "rests on"]) {
        const th = document.createElement("th");
        th.scope = "col";
        th.textContent = name;
        head.append(th);
      }
      const body = table.createTBody();
      for (const mark of marksOf(details.closest("figure"))) {
        const [of, value, ...rest] = mark.dataset.tip.split("\n");
        const row = body.insertRow();
        const th = document.createElement("th");
        th.scope = "row";
        th.textContent = of;
        row.append(th);
        for (const text of [value || "", rest.join("; ")]) row.insertCell().textContent = text;
      }
      const scroll = document.createElement("div");
      scroll.className = "scroll";
      scroll.tabIndex = 0;
      scroll.setAttribute("role", "region");
      scroll.setAttribute("aria-label", "Values of the chart");
      scroll.append(table);
      details.append(scroll);
    });
  }
})();
