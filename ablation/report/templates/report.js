"use strict";
(() => {
  const data = JSON.parse(document.getElementById("hovers").textContent);
  const root = document.documentElement;

  // Dark or light, whatever the system says.
  document.getElementById("theme").addEventListener("click", () => {
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    root.dataset.theme = (root.dataset.theme || system) === "dark" ? "light" : "dark";
  });

  // One legend for all figures.
  const buttons = [...document.querySelectorAll(".legend button[data-of]")];
  const isOn = (button) => button.getAttribute("aria-pressed") === "true";
  const turn = (button, on) => {
    button.setAttribute("aria-pressed", on);
    for (const part of document.querySelectorAll(`.plot [data-variant="${button.dataset.of}"]`)) {
      part.classList.toggle("off", !on);
    }
  };
  for (const button of buttons) button.addEventListener("click", () => turn(button, !isOn(button)));
  document.querySelector(".legend .all").addEventListener("click", () => {
    const on = !buttons.every(isOn);
    for (const button of buttons) turn(button, on);
  });

  // What the curves say where the pointer, a finger or the arrow keys are.
  const write = (value) => value === null ? "-" : value.toLocaleString("en", { maximumSignificantDigits: 4 });
  const nearest = (values, wanted) => {
    let best = 0;
    values.forEach((value, place) => {
      if (value !== null && Math.abs(value - wanted) < Math.abs(values[best] - wanted)) best = place;
    });
    return best;
  };
  const readable = (hover) => {
    const svg = document.getElementById(hover.panel);
    const panel = svg.parentElement;
    const [left, top, right, bottom] = hover.box;
    const tip = document.createElement("div");
    const line = document.createElementNS(svg.namespaceURI, "line");
    let place = hover.at.length - 1;
    tip.className = "tip";
    tip.hidden = true;
    tip.setAttribute("role", "status");
    line.setAttribute("class", "cursor");
    line.setAttribute("y1", top);
    line.setAttribute("y2", bottom);
    panel.tabIndex = 0;

    const hide = () => {
      tip.hidden = true;
      line.remove();
    };
    const show = () => {
      const x = left + (hover.at[place] - hover.x[0]) / (hover.x[1] - hover.x[0]) * (right - left);
      const table = document.createElement("table");
      const caption = table.createCaption();
      caption.textContent = `${write(hover.at[place])} ${hover.unit}`;
      for (const button of buttons) {
        const band = hover.bands[button.dataset.of];
        if (!band || !isOn(button) || band[0][place] === null) continue;
        const [value, low, high] = band.map((part) => part[place]);
        const row = table.insertRow();
        row.insertCell().textContent = button.textContent.trim();
        row.cells[0].style.borderLeft = `.5rem solid var(--v${button.dataset.colour})`;
        row.insertCell().textContent = write(value);
        row.insertCell().textContent = low === null || high === null ? "" : `[${write(low)}, ${write(high)}]`;
      }
      tip.replaceChildren(table);
      tip.hidden = false;
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      svg.append(line);
      if (tip.parentElement !== panel) panel.append(tip);
      // Beside the line, on the side that has more room, and within the panel.
      const scale = svg.clientWidth / svg.viewBox.baseVal.width;
      const room = panel.clientWidth - tip.offsetWidth;
      const wanted = x > (left + right) / 2 ? x * scale - tip.offsetWidth - 12 : x * scale + 12;
      tip.style.left = `${Math.max(0, Math.min(room, wanted))}px`;
      tip.style.top = `${top * scale + 4}px`;
    };
    const follow = (event) => {
      const bounds = svg.getBoundingClientRect();
      const x = (event.clientX - bounds.left) / bounds.width * svg.viewBox.baseVal.width;
      const share = Math.min(1, Math.max(0, (x - left) / (right - left)));
      place = nearest(hover.at, hover.x[0] + share * (hover.x[1] - hover.x[0]));
      show();
    };
    svg.addEventListener("pointermove", follow);
    svg.addEventListener("pointerdown", follow);
    svg.addEventListener("pointerleave", hide);
    panel.addEventListener("blur", hide);
    panel.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      if (!tip.hidden) place = Math.min(hover.at.length - 1, Math.max(0, place + step));
      show();
    });
  };
  data.forEach(readable);

  // Paper has no folds.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const fold of opened) fold.open = true;
  });
  addEventListener("afterprint", () => {
    for (const fold of opened) fold.open = false;
  });
})();
