// The live parts of a page: an element with `data-live` names a stream of pieces that the authority has rendered, as the
// page itself is. Without this script every page is whole, with a link to look again.
"use strict";
for (const place of document.querySelectorAll("[data-live]")) {
  const status = document.getElementById(place.dataset.status);
  const pause = document.getElementById(place.dataset.pause);
  const most = 200;
  let held = null;
  const put = (html) => {
    document.getElementById("nothing-yet")?.remove();
    place.insertAdjacentHTML("afterbegin", html);
    while (place.children.length > most) place.lastElementChild.remove();
  };
  const source = new EventSource(place.dataset.live);
  source.addEventListener("whole", (piece) => { place.innerHTML = piece.data; });
  source.addEventListener("row", (piece) => {
    if (held === null) return put(piece.data);
    held = [...held, piece.data].slice(-most);
    status.textContent = `Paused: ${held.length} more.`;
  });
  source.addEventListener("status", (piece) => { if (held === null) status.textContent = piece.data; });
  source.addEventListener("end", () => source.close());
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) status.textContent = "No longer live: open the page again.";
  });
  if (!pause) continue;
  pause.hidden = false;
  pause.addEventListener("click", () => {
    const on = held === null;
    pause.setAttribute("aria-pressed", String(on));
    if (!on) held.forEach(put);
    held = on ? [] : null;
    status.textContent = on ? "Paused." : "Live.";
  });
}
