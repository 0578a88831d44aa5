'use strict';
// Replaces <main> by a freshly rendered one after each event, at most four times a second, and every 5 s.
const PAUSE_MS = 250;
let timer = null;
let loading = false;

async function refresh() {
  timer = null;
  if (loading) { schedule(PAUSE_MS); return; }
  loading = true;
  const live = document.getElementById('live');
  try {
    const answer = await fetch('/', { cache: 'no-store' });
    const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html');
    const focused = document.activeElement && document.activeElement.id;
    const top = window.scrollY;
    document.querySelector('main').replaceWith(document.importNode(fresh.querySelector('main'), true));
    document.title = fresh.title;
    if (focused) { const again = document.getElementById(focused); if (again) again.focus({ preventScroll: true }); }
    window.scrollTo(0, top);
    live.textContent = 'live';
    live.className = 'quiet';
  } catch (error) {
    live.textContent = 'no answer from entryway; trying again';
    live.className = 'bad';
  }
  loading = false;
}

function schedule(pause) {
  if (timer === null) timer = setTimeout(refresh, pause);
}

document.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-copy]');
  if (!button) return;
  const text = document.getElementById(button.dataset.copy).textContent;
  navigator.clipboard.writeText(text).then(
    () => { button.textContent = 'Copied'; },
    () => { button.textContent = 'Select the text to copy it'; });
});

const events = new EventSource('/v1/events');
events.onmessage = () => schedule(PAUSE_MS);
events.onerror = () => schedule(1000);
setInterval(() => { if (!document.hidden) schedule(0); }, 5000);
schedule(0);
