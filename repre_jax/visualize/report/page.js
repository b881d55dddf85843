"use strict";
// A cursor that all charts share, by mouse, finger and arrow keys; and the search of the config.
const {first, last, charts} = JSON.parse(document.getElementById("curves").textContent);
const plots = [...document.querySelectorAll(".plot")];
const span = Math.max(last - first, 1);

// Place in the ascending `steps` of the one nearest to `step`.
function nearest(steps, step) {
  let low = 0, high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1; else high = middle;
  }
  return low > 0 && step - steps[low - 1] < steps[low] - step ? low - 1 : low;
}

function told(value, percent) {
  const number = percent ? 100 * value : value;
  const size = Math.abs(number);
  const text = size >= 1000 && size < 1e6 ? Math.round(number).toLocaleString("en") : String(Number(number.toPrecision(4)));
  return percent ? `${text} %` : text;
}

function show(step) {
  plots.forEach((plot, k) => {
    plot.querySelector(".cursor").style.cssText = `display:block;left:${100 * (step - first) / span}%`;
    const readout = plot.parentElement.querySelector(".readout");
    readout.replaceChildren();
    for (const line of charts[k].lines) {
      const box = document.getElementById(`show-${line.css}`);
      if (!line.steps.length || (box && !box.checked)) continue;
      const place = nearest(line.steps, step);
      const part = document.createElement("span");
      part.className = line.css;
      part.textContent = `${told(line.values[place], charts[k].percent)} at ${line.steps[place].toLocaleString("en")}`;
      part.title = line.name;
      part.ariaLabel = `${line.name}: ${part.textContent}`;
      readout.append(part);
    }
  });
}

function hide() {
  for (const plot of plots) {
    plot.querySelector(".cursor").style.display = "none";
    plot.parentElement.querySelector(".readout").replaceChildren();
  }
}

let cursor = last;
let wanted = false;
function move(step) {
  cursor = Math.min(last, Math.max(first, step));
  if (wanted) return;
  wanted = true;  // at most once a frame
  requestAnimationFrame(() => { wanted = false; show(cursor); });
}

for (const plot of plots) {
  const follow = (event) => {
    const box = plot.getBoundingClientRect();
    move(Math.round(first + span * (event.clientX - box.left) / box.width));
  };
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  const readout = plot.parentElement.querySelector(".readout");
  plot.addEventListener("focus", () => { readout.ariaLive = "polite"; move(cursor); });
  plot.addEventListener("blur", () => { readout.ariaLive = "off"; hide(); });
  plot.addEventListener("keydown", (event) => {
    const stride = Math.max(1, Math.round(span / (event.shiftKey ? 10 : 100)));
    const target = {ArrowLeft: cursor - stride, ArrowRight: cursor + stride, Home: first, End: last}[event.key];
    if (target === undefined) return;
    event.preventDefault();
    move(target);
  });
}

for (const config of document.querySelectorAll(".config")) {
  const rows = [...config.querySelectorAll("tbody tr")];
  const search = config.querySelector(".search");
  search.parentElement.hidden = false;
  search.addEventListener("input", (event) => {
    const text = event.target.value.toLowerCase();
    for (const row of rows) row.classList.toggle("hidden", !row.textContent.toLowerCase().includes(text));
  });
}
