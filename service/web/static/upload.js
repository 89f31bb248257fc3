// Sends a form with a file, shows how much of it is sent, and what the service answers: the page of what was added, questions to answer,
// or why not.
"use strict";

function element(name, text = "", facts = {}) {
  return Object.assign(document.createElement(name), { textContent: text }, facts);
}

function send(form) {
  const request = new XMLHttpRequest(); // fetch does not tell how much was sent
  const progress = form.querySelector("progress");
  return new Promise((resolve) => {
    request.upload.addEventListener("progress", ({ loaded, total }) => (progress.value = loaded / total));
    request.addEventListener("loadend", () => resolve(request));
    request.open("POST", form.dataset.path);
    request.send(filled(form));
  });
}

function filled(form) {
  const data = new FormData(form);
  if (!data.get("name")) data.delete("name");
  const questions = [...form.querySelectorAll("[data-field]")];
  for (const { name } of questions) data.delete(name);
  if (!questions.length) return data;
  const card = JSON.parse(form.dataset.card);
  for (const each of questions) put(card, each.dataset.field.split("."), read(each));
  data.set("card", JSON.stringify(card));
  return data;
}

// Lists of names are written one on a line; what was no text is read as JSON, and sent as it is where it is none: the service says why.
function read({ value, dataset }) {
  if (dataset.kind === "lines") return value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (dataset.kind === "text") return value;
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

function put(card, path, value) {
  const last = path.pop();
  path.reduce((inner, name) => inner[name], card)[last] = value;
}

function question({ field, why, allowed }, card) {
  const value = field.split(".").reduce((inner, name) => inner?.[name], card);
  const isLines = Array.isArray(value) && value.every((each) => typeof each === "string");
  const kind = isLines ? "lines" : typeof value === "string" ? "text" : "json";
  const text = isLines ? value.join("\n") : kind === "text" ? value : JSON.stringify(value);
  const input = element(isLines ? "textarea" : "input", "", { name: field, value: text });
  Object.assign(input.dataset, { field, kind });
  const label = element("label", field);
  label.append(element("small", `${why}; allowed: ${allowed}`), input);
  return label;
}

function ask(form, { questions, card }) {
  form.querySelector("fieldset")?.remove();
  form.dataset.card = JSON.stringify(card);
  const asked = element("fieldset");
  asked.append(element("legend", "What the file does not tell; the likely answers are filled in"));
  asked.append(...questions.map((each) => question(each, card)));
  form.querySelector(".answer").after(asked);
  asked.querySelector("[name]").focus();
}

function explain(answer, found) {
  const share = `${(100 * found.share).toFixed(1)} % of its tensors are the same`;
  answer.append(element("p", `The nearest architecture is ${found.nearest}: ${share}.`));
  for (const kind of ["missing", "unexpected", "shapes"]) {
    if (!found[kind].length) continue;
    const list = element("details");
    list.append(element("summary", `${kind}: ${found[kind].length}`), element("pre", found[kind].join("\n")));
    answer.append(list);
  }
}

function body(request) {
  try {
    return JSON.parse(request.responseText);
  } catch {
    const reason = request.status ? `${request.status} ${request.statusText}` : "the connection ended before there was an answer";
    return { detail: reason };
  }
}

function refusal(form) {
  const size = form.elements.file.files[0].size;
  const most = Number(form.dataset.maxBytes);
  return size > most ? { detail: `the file has ${size} bytes, at most ${most} are allowed` } : null;
}

async function upload(form) {
  const answer = form.querySelector(".answer");
  const [button, progress] = [form.querySelector("[type=submit]"), form.querySelector("progress")];
  answer.replaceChildren();
  button.disabled = true;
  progress.hidden = false;
  const refused = refusal(form);
  const request = refused ? null : await send(form);
  const found = refused ?? body(request);
  if (request?.status === 201) return location.assign(form.dataset.page + found.name);
  button.disabled = false;
  progress.hidden = true;
  answer.append(element("p", found.detail, { className: "warning" }));
  if (found.questions) ask(form, found);
  if (found.nearest) explain(answer, found);
}

for (const form of document.querySelectorAll("form.upload")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    upload(form).catch((error) => alert(error));
  });
  form.elements.file.addEventListener("change", () => form.querySelector("fieldset")?.remove()); // it was about another file
  form.addEventListener("dragover", (event) => event.preventDefault());
  form.addEventListener("drop", (event) => {
    event.preventDefault();
    form.elements.file.files = event.dataTransfer.files;
    form.elements.file.dispatchEvent(new Event("change"));
  });
}
