// Sends a picture to every chosen model, and shows what each says of its versions.
"use strict";

const form = document.getElementById("playground");
const views = document.getElementById("views");
const PAUSE_MS = 250;
let file;
let asked = 0;

function element(tag, attributes, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function figure(view, attention) {
  const said = view.top.map((each) => element("li", {}, `${each.label} ${percent(each.probability)}`));
  const picture = element("img", { src: (attention && view.attention) || view.picture, alt: view.title, width: 160, height: 160 });
  const title = element("b", { className: view.flipped ? "worse" : "" }, view.title, view.flipped ? ": another class" : "");
  return element("figure", {}, picture, element("figcaption", {}, title, element("ol", {}, ...said)));
}

async function ask(model, eps, steps) {
  const query = new URLSearchParams({ eps: `${eps}/255`, steps });
  const headers = { "Content-Type": file.type || "image/png" };
  const answer = await fetch(`${form.dataset.root}/v1/models/${model}/try?${query}`, { method: "POST", headers, body: file });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail);
  return body;
}

async function card(model, eps, steps, attention) {
  const shown = element("section", { className: "card" }, element("h2", {}, model));
  try {
    const trial = await ask(model, eps, steps);
    const change = element("figure", {}, element("img", { src: trial.difference, alt: "difference", width: 160, height: 160 }));
    change.append(element("figcaption", {}, element("b", {}, "what PGD changed"), " magnified"));
    const figures = trial.views.map((each) => figure(each, attention));
    if (attention && !trial.views[0].attention) shown.append(element("p", {}, "This model has no attention that can be shown."));
    shown.append(element("div", { className: "gallery" }, ...figures, change));
  } catch (error) {
    shown.append(element("p", { className: "warning" }, error.message));
  }
  return shown;
}

async function show() {
  if (!file) return;
  const number = ++asked;
  const chosen = new FormData(form);
  const parameters = [chosen.get("eps"), chosen.get("steps"), chosen.has("attention")];
  views.setAttribute("aria-busy", "true");
  const cards = await Promise.all(chosen.getAll("models").map((model) => card(model, ...parameters)));
  if (number !== asked) return; // something was changed meanwhile
  views.replaceChildren(...cards);
  views.removeAttribute("aria-busy");
}

let pause;

function changed() {
  document.getElementById("radius").value = new FormData(form).get("eps");
  clearTimeout(pause);
  pause = setTimeout(show, PAUSE_MS);
}

function take(files) {
  file = files[0] ?? file;
  changed();
}

form.addEventListener("input", ({ target }) => (target.type === "file" ? take(target.files) : changed()));
form.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files);
});
