// The form of a new evaluation: the server says what the fields mean, and its answer is what is submitted.
"use strict";

const form = document.getElementById("new");
const root = form.getAttribute("data-root"); // form.dataset is the field of that name
const preview = document.getElementById("preview");
const [submit, estimate, time] = [form.querySelector("[type=submit]"), document.getElementById("estimate"), document.getElementById("time")];
const PAUSE_MS = 300;

function fields() {
  const found = {};
  for (const [name, value] of new FormData(form)) (found[name] ??= []).push(value);
  return found;
}

async function ask(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(root + path, { method, headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error((await answer.json()).detail);
  return answer;
}

const spec = () => preview.querySelector("[data-spec]")?.dataset.spec;

let asked = 0;

async function show() {
  const number = ++asked;
  const html = await (await ask("POST", "/new/preview", fields())).text();
  if (number !== asked) return; // another change came meanwhile
  const open = [...preview.querySelectorAll("details")].map((each) => each.open);
  preview.innerHTML = html;
  preview.querySelectorAll("details").forEach((each, place) => (each.open = open[place] ?? false));
  submit.disabled = estimate.disabled = !spec();
  time.textContent = "";
}

async function add() {
  const html = await (await ask("POST", "/new/condition", fields())).text();
  const template = document.createElement("template");
  template.innerHTML = html;
  const refused = template.content.querySelector("[data-refused]");
  document.getElementById("refusal").replaceChildren(...(refused ? [refused] : []));
  if (!refused) document.getElementById("conditions").append(template.content);
  await show();
}

async function measure() {
  time.textContent = "timing the models …";
  const { seconds, images, images_done } = await (await ask("POST", "/v1/evaluations/dry-run", JSON.parse(spec()))).json();
  const done = images_done ? `; ${images_done} of ${images} rows are computed already` : "";
  time.textContent = `at most ${seconds < 100 ? Math.ceil(seconds) + " s" : Math.ceil(seconds / 60) + " min"} on one device${done}`;
}

async function evaluate() {
  const { name, tags, priority } = Object.fromEntries(new FormData(form));
  const query = priority === "normal" ? "" : `?priority=${priority}`;
  const { links } = await (await ask("POST", `/v1/evaluations${query}`, JSON.parse(spec()))).json();
  if (name || tags.trim()) {
    await ask("PUT", `${links.self.slice(root.length)}/label`, { name, tags: tags.split(/\s+/).filter(Boolean) });
  }
  location.assign(links.page);
}

function busy(button, work) {
  button.disabled = true;
  work()
    .catch((error) => (time.textContent = error.message))
    .finally(() => (button.disabled = false));
}

let pause;

function changed() {
  clearTimeout(pause);
  submit.disabled = estimate.disabled = true; // until the server has seen the change
  pause = setTimeout(() => show().catch((error) => (preview.textContent = error.message)), PAUSE_MS);
}

form.addEventListener("input", ({ target }) => {
  if (target.name === "added") {
    for (const each of form.querySelectorAll("[data-choice]")) {
      each.hidden = each.disabled = each.dataset.choice !== target.value.split(" ")[1];
    }
  }
  changed();
});
form.addEventListener("click", ({ target }) => {
  if (target.id === "add") busy(target, add);
  if (target.id === "estimate") busy(target, measure);
  if (target.className === "remove") {
    target.closest("li").remove();
    changed();
  }
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  busy(submit, evaluate);
});
changed();
