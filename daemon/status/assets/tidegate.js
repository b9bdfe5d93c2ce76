// Keeps an open page up to date. Without it the page is whole, only still.
//
// Every two seconds (ten where less motion is asked for) the page is fetched again and its <main> is carried over into the one on the screen, node by node:
// what did not change is not touched, so that focus, selection, scrolling and open details stay as they are.
"use strict";

(() => {
  // Who asked for less motion gets figures that change less often.
  const PERIOD_MS = matchMedia("(prefers-reduced-motion: reduce)").matches ? 10000 : 2000;
  const SLOWEST_MS = 15000;
  const PATIENCE_MS = 10000;

  const main = document.getElementById("main");
  const lost = document.getElementById("lost");
  const live = document.getElementById("live");
  const button = document.createElement("button");
  button.type = "button";
  live.replaceChildren(button);

  let paused = false;
  let failures = 0;
  let timer = 0;
  let running = false;
  let seen = new Date();

  async function refresh() {
    if (running) return;
    running = true;
    clearTimeout(timer);
    try {
      const answer = await fetch("/", {
        headers: { accept: "text/html" },
        cache: "no-store",
        signal: AbortSignal.timeout(PATIENCE_MS),
      });
      if (!answer.ok) throw new Error(`the gateway answered ${answer.status}`);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const source = fresh.getElementById("main");
      if (!source) throw new Error("the gateway answered with something else");
      carry(main, source);
      for (const part of ["h1", "footer"]) {
        const [here, there] = [document.querySelector(part), fresh.querySelector(part)];
        if (here && there) carry(here, there);
      }
      document.title = fresh.title;
      failures = 0;
      seen = new Date();
    } catch {
      failures += 1;
    } finally {
      running = false;
      show();
      plan();
    }
  }

  function plan() {
    clearTimeout(timer);
    if (paused || document.hidden) return;
    timer = setTimeout(refresh, Math.min(PERIOD_MS * 2 ** Math.min(failures, 3), SLOWEST_MS));
  }

  function show() {
    // One failed attempt is a hiccup; two are an outage that the reader must know of.
    const out = failures > 1;
    document.body.classList.toggle("stale", out);
    if (out && lost.hidden) {
      lost.textContent = `Connection to the gateway lost. The figures below are those of ${seen.toLocaleTimeString()}; trying again.`;
    }
    lost.hidden = !out;
    const state = out ? "lost" : paused ? "paused" : "live";
    button.className = state;
    button.textContent = out ? "Try again" : paused ? "Resume" : "Pause";
    button.setAttribute("aria-label", out ? "Connection lost: try again now" : paused ? "Paused: resume live figures" : "Live: pause the figures");
    live.dataset.state = state;
  }

  // Makes `here` equal to `there` with as few changes as its shape allows.
  function carry(here, there) {
    for (const { name, value } of [...there.attributes]) {
      if (here.getAttribute(name) !== value) here.setAttribute(name, value);
    }
    for (const { name } of [...here.attributes]) {
      if (!there.hasAttribute(name) && name !== "open") here.removeAttribute(name);
    }
    const old = [...here.childNodes];
    const fresh = [...there.childNodes];
    fresh.forEach((node, at) => {
      const match = old[at];
      if (!match) {
        here.append(document.importNode(node, true));
      } else if (match.nodeType !== node.nodeType || match.nodeName !== node.nodeName || match.id !== node.id) {
        match.replaceWith(document.importNode(node, true));
      } else if (node.nodeType === Node.ELEMENT_NODE) {
        carry(match, node);
      } else if (match.nodeValue !== node.nodeValue) {
        match.nodeValue = node.nodeValue;
      }
    });
    old.slice(fresh.length).forEach((node) => node.remove());
  }

  button.addEventListener("click", () => {
    if (failures > 1) {
      refresh();
      return;
    }
    paused = !paused;
    show();
    if (paused) plan();
    else refresh();
  });

  // Nobody looks: no request. On return the figures are fetched at once.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden || paused) plan();
    else refresh();
  });

  show();
  plan();
})();
