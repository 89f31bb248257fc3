// While something on a page is live, asks for the sections that have changed, and changes only what differs in them: what the reader
// has opened, scrolled or focused stays as it is.
"use strict";

const CHANGES = document.currentScript.dataset.changes;
const PAUSE_MS = 1000;
const SHARE = 10; // a page that is slow to answer is asked less often: it works for at most a tenth of the time

let following = false;

function patch(old, fresh) {
  if (old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
  } else if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
  } else {
    patchAttributes(old, fresh);
    patchChildren(old, [...fresh.childNodes]);
  }
}

// Children with an id stay what they are when others come, go or change their place; the rest is told apart by its place.
function patchChildren(old, children) {
  children.forEach((child, place) => {
    const here = old.childNodes[place] ?? null;
    const same = child.id ? [...old.children].find((each) => each.id === child.id) : !here?.id && here;
    if (same && same !== here) old.insertBefore(same, here);
    if (same) patch(same, child);
    else old.insertBefore(child, here);
  });
  while (old.childNodes.length > children.length) old.lastChild.remove();
}

function patchAttributes(old, fresh) {
  const readers = (name) => name === "open"; // whether a section is open is up to its reader
  for (const name of old.getAttributeNames()) {
    if (!fresh.hasAttribute(name) && !readers(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && !readers(name)) old.setAttribute(name, value);
  }
}

async function update() {
  const known = [...document.querySelectorAll("[data-hash]")].map((section) => section.dataset.hash);
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(CHANGES, { method: "POST", headers, body: JSON.stringify(known) });
  if (!answer.ok) return;
  const template = document.createElement("template");
  template.innerHTML = await answer.text();
  for (const section of [...template.content.children]) patch(document.getElementById(section.id), section);
}

async function follow() {
  if (following) return;
  following = true;
  let pause = PAUSE_MS;
  while (document.querySelector("[data-live]")) {
    await new Promise((resolve) => setTimeout(resolve, pause));
    if (document.hidden) continue;
    const began = performance.now();
    await update().catch(() => {}); // the service cannot be reached now
    pause = Math.max(PAUSE_MS, SHARE * (performance.now() - began));
  }
  following = false;
}

async function control(button) {
  const { path, method, body, question, then } = button.dataset;
  if (question && !confirm(question)) return;
  button.disabled = true;
  const headers = body ? { "Content-Type": "application/json" } : {};
  const answer = await fetch(path, { method, headers, body });
  if (!answer.ok) alert((await answer.json()).detail);
  else if (then) return location.assign(then);
  button.disabled = false;
  await update();
  if (document.activeElement === document.body && button.isConnected) button.focus(); // a disabled button loses it
  follow(); // what was over may have begun again
}

// Sends the fields of a form, one with `data-list` as a list of words, and shows the page anew.
async function send(form) {
  const body = Object.fromEntries(new FormData(form));
  for (const field of form.querySelectorAll("[data-list]")) body[field.name] = field.value.split(/\s+/).filter(Boolean);
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(form.dataset.path, { method: form.dataset.method, headers, body: JSON.stringify(body) });
  if (!answer.ok) return alert((await answer.json()).detail);
  location.reload();
}

document.addEventListener("submit", (event) => {
  if (!event.target.dataset.method) return; // a search, or a form with a script of its own
  event.preventDefault();
  send(event.target).catch((error) => alert(error));
});
document.addEventListener("click", ({ target }) => {
  if (target.dataset.path) control(target).catch((error) => alert(error));
});

follow();
