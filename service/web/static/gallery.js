// A picture of the gallery at full size: a slider between the image as it was and as it was changed, or any other picture of it.
"use strict";

const dialog = document.createElement("dialog");
dialog.setAttribute("aria-label", "one image at full size");
document.querySelector("main").append(dialog);
let shown;

function element(tag, attributes, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

function show(figure, kind = "changed") {
  shown = figure;
  const pictures = Object.fromEntries([...figure.querySelectorAll("img")].map((each) => [each.dataset.kind, each]));
  const [before, after] = kind.endsWith("attention") ? ["clean-attention", "attention"] : ["clean", kind === "clean" ? "changed" : kind];
  const pair = element("div", { className: "pair" }, element("img", { src: pictures[before].src, alt: pictures[before].alt }));
  pair.append(element("img", { src: pictures[after].src, alt: pictures[after].alt, className: "changed" }));
  const slider = element("input", { type: "range", min: 0, max: 100, value: kind === before ? 100 : 0 });
  slider.setAttribute("aria-label", `share of the picture that shows ${before} instead of ${after}`);
  const slide = () => pair.style.setProperty("--clean", `${slider.value}%`);
  slider.addEventListener("input", slide);
  slide();
  const kinds = Object.keys(pictures).map((each) => {
    const button = element("button", { type: "button", textContent: each.replace("-", " "), onclick: () => show(figure, each) });
    button.setAttribute("aria-pressed", each === kind);
    return button;
  });
  const steps = [["previous", -1], ["next", 1]].map(([textContent, by]) => element("button", { type: "button", textContent, onclick: () => step(by) }));
  const close = element("button", { type: "button", textContent: "close", onclick: () => dialog.close() });
  dialog.replaceChildren(pair, slider, element("p", {}, ...kinds), figure.querySelector("figcaption").cloneNode(true), element("p", {}, ...steps, close));
  if (!dialog.open) dialog.showModal();
}

function step(by) {
  const figures = [...document.querySelectorAll("details[open] .gallery figure")];
  show(figures[(figures.indexOf(shown) + by + figures.length) % figures.length]);
}

document.addEventListener("click", ({ target }) => {
  if (target.closest(".gallery") && target.dataset.kind) show(target.closest("figure"), target.dataset.kind);
});
document.addEventListener("keydown", (event) => {
  if (dialog.open && event.target.type !== "range") {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  } else if (event.key === "Enter" && event.target.dataset?.kind) show(event.target.closest("figure"), event.target.dataset.kind);
});
dialog.addEventListener("close", () => shown.querySelector("img").focus());
