// Follows evaluations that have not ended: progress bars move, and a page that shows a report fetches it again as shards finish.
"use strict";

const FINAL = ["done", "failed", "cancelled"];

function show(box, evaluation) {
  const { images_done, images_total, images_per_s, eta_s } = evaluation.progress;
  const status = box.querySelector(".status");
  status.textContent = evaluation.status;
  status.className = `status ${evaluation.status}`;
  box.querySelector("progress").value = images_done;
  box.querySelector(".count").textContent = `${images_done} / ${images_total} images`;
  const rate = images_per_s === null ? "" : `${Math.round(images_per_s)} images/s`;
  box.querySelector(".rate").textContent = eta_s === null ? rate : `${rate}, ${Math.round(eta_s)} s left`;
}

async function refreshReport() {
  const report = document.getElementById("report");
  if (!report) return;
  const answer = await fetch(location.href);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  report.replaceWith(page.getElementById("report"));
}

for (const box of document.querySelectorAll("[data-events]")) {
  if (FINAL.includes(box.dataset.status)) continue;
  const source = new EventSource(box.dataset.events);
  source.addEventListener("progress", (event) => {
    const evaluation = JSON.parse(event.data);
    show(box, evaluation);
    refreshReport();
    if (FINAL.includes(evaluation.status)) source.close();
  });
}
