"use strict";

// All text is set with textContent, so no title and no error can be markup.
const at = (id) => document.getElementById(id);
const STAGES = ["cache", "queue", "encode", "retrieve", "rank"];
const MEANING = {
  model: "computed for this request",
  cache: "stored answer to an equal request",
  fallback: "popular films, because there is no history or no capacity",
};
const PATIENCE_MS = 150; // from the last keystroke to the request

let picked = []; // {item_id, title, ...}, the latest last
let found = []; // what the list under the search box shows
let active = -1; // the marked one of these
let searching = new AbortController();
let asking = new AbortController();

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Calls `act` after the last keystroke. */
function afterwards(act) {
  let timer;
  const cancel = () => clearTimeout(timer);
  const soon = () => {
    cancel();
    timer = setTimeout(act, PATIENCE_MS);
  };
  return { soon, cancel };
}

/** The server's JSON; an error says in one sentence what went wrong. */
async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached. It may be starting or stopped; try again.");
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return [body, response.headers];
  const after = response.headers.get("Retry-After");
  const detail = body?.detail || body?.title || response.statusText || "no reason was given";
  const wait = after === null ? "" : ` Try again in ${after} s.`;
  throw new Error(`The server answered ${response.status}: ${detail.replace(/\.$/, "")}.${wait}`);
}

// Known details of a film; a title often ends with its year
function details(item) {
  const year = item.year != null && !item.title?.includes(`(${item.year})`) ? [String(item.year)] : [];
  return [...year, (item.genres || []).join(", ")].filter(Boolean).join(" · ");
}

function named(item) {
  const more = details(item);
  return [element("span", { textContent: item.title || `Item ${item.item_id}` }), ...(more ? [element("small", { textContent: more })] : [])];
}

// Films: search

async function search() {
  const text = at("title").value.trim();
  searching.abort();
  if (!text) return close();
  searching = new AbortController();
  const { signal } = searching;
  try {
    const [body] = await ask(`items/search?${new URLSearchParams({ q: text, limit: "8" })}`, { signal });
    if (signal.aborted || document.activeElement !== at("title")) return;
    found = body.items;
    at("none-found").textContent = found.length ? "" : "No film has all these words in its title.";
    open();
  } catch (error) {
    if (error.name === "AbortError") return;
    close();
    at("none-found").textContent = error.message;
  }
}

function open() {
  at("found").replaceChildren(
    ...found.map((item, place) => {
      const option = element("li", { id: `found-${place}` }, ...named(item));
      option.setAttribute("role", "option");
      option.addEventListener("mousedown", (event) => {
        event.preventDefault(); // the box keeps the focus
        pick(item);
      });
      return option;
    }),
  );
  at("found").hidden = !found.length;
  at("title").setAttribute("aria-expanded", String(found.length > 0));
  mark(found.length ? 0 : -1);
}

function close() {
  found = [];
  at("none-found").textContent = "";
  open();
}

function mark(place) {
  active = place;
  [...at("found").children].forEach((option, number) => option.setAttribute("aria-selected", String(number === place)));
  if (place < 0) return at("title").removeAttribute("aria-activedescendant");
  at("title").setAttribute("aria-activedescendant", `found-${place}`);
  at("found").children[place].scrollIntoView({ block: "nearest" });
}

at("title").addEventListener("input", afterwards(search).soon);
at("title").addEventListener("blur", close);
at("title").addEventListener("keydown", (event) => {
  const steps = { ArrowDown: 1, ArrowUp: -1 };
  if (event.key in steps && found.length) {
    event.preventDefault();
    mark((active + steps[event.key] + found.length) % found.length);
  } else if (event.key === "Enter") {
    if (active < 0 && !at("title").value.trim()) return; // an empty box: the form is sent
    event.preventDefault();
    if (active >= 0) pick(found[active]);
  } else if (event.key === "Escape") {
    searching.abort();
    close();
  } else if (event.key === "Backspace" && !at("title").value && picked.length) {
    remove(picked.length - 1);
  }
});

// Films: those picked

function pick(item) {
  picked.push(item);
  at("title").value = "";
  searching.abort();
  close();
  showPicked();
  changed();
}

function remove(place) {
  picked.splice(place, 1);
  showPicked();
  changed();
}

function showPicked() {
  at("picked").replaceChildren(
    ...picked.map((item, place) => {
      const title = item.title || `Item ${item.item_id}`;
      const button = element("button", { type: "button", textContent: "×", ariaLabel: `Remove ${title}` });
      button.addEventListener("click", () => {
        remove(place);
        (at("picked").children[Math.min(place, picked.length - 1)]?.querySelector("button") || at("title")).focus();
      });
      return element("li", {}, element("span", { textContent: title }), button);
    }),
  );
  at("none-picked").hidden = picked.length > 0;
  at("clear").hidden = !picked.length;
}

at("clear").addEventListener("click", () => {
  picked = [];
  showPicked();
  at("title").focus();
  changed();
});

// Recommendations

const byUser = () => at("ask").elements.way.value === "user";

function question() {
  const k = Number(at("k").value);
  if (!Number.isInteger(k) || k < 1 || k > 100) throw new Error("How many: a whole number from 1 to 100.");
  const options = { k, exclude_seen: at("exclude").checked, include_titles: true };
  if (!byUser()) return { history: picked.map((item) => item.item_id), ...options };
  const text = at("user").value.trim();
  if (!text) throw new Error("A user id is missing.");
  const number = Number(text);
  return { user_id: /^-?\d+$/.test(text) && Number.isSafeInteger(number) ? number : text, ...options };
}

async function recommend() {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  at("answer").classList.add("stale");
  try {
    const body = JSON.stringify(question());
    const start = performance.now();
    const [answer, headers] = await ask("recommend", { method: "POST", headers: { "Content-Type": "application/json" }, body, signal });
    if (!signal.aborted) show(answer, headers, performance.now() - start);
  } catch (error) {
    if (error.name === "AbortError") return;
    at("answer").hidden = true;
    at("state").textContent = "";
    at("problem").textContent = error.message;
    at("problem").hidden = false;
  }
}

function show(answer, headers, tripMs) {
  at("problem").hidden = true;
  at("state").textContent = answer.items.length ? "" : "Nothing is left to recommend.";
  at("answer").hidden = false;
  at("answer").classList.remove("stale");
  at("source").textContent = answer.source;
  at("source").className = `badge ${answer.source}`;
  at("meaning").textContent = MEANING[answer.source] || "";
  at("items").replaceChildren(...answer.items.map((item) => {
    const score = element("span", { className: "score", title: "score", textContent: item.score.toPrecision(4) });
    const title = item.title || `item ${item.item_id}`;
    const seen = element("button", { type: "button", className: "plain", textContent: "seen", ariaLabel: `Add ${title} to the films seen` });
    seen.addEventListener("click", () => pick(item));
    seen.hidden = byUser();
    return element("li", {}, element("span", {}, ...named(item)), score, seen);
  }));
  showTimes(headers, tripMs);
}

function showTimes(headers, tripMs) {
  const spent = new Map();
  for (const entry of (headers.get("Server-Timing") || "").split(",")) {
    const [, name, ms] = /^\s*([\w-]+)\s*;\s*dur=([\d.]+)/.exec(entry) || [];
    if (name) spent.set(name, Number(ms));
  }
  const total = spent.get("total") ?? [...spent.values()].reduce((sum, ms) => sum + ms, 0);
  const parts = STAGES.filter((name) => spent.has(name)).map((name) => [name, spent.get(name)]);
  parts.push(["rest", Math.max(0, total - parts.reduce((sum, [, ms]) => sum + ms, 0))]);
  const ms = (value) => `${value < 1 ? value.toFixed(2) : value.toFixed(1)} ms`;
  at("bar").replaceChildren(...parts.map(([name, value]) => {
    const part = element("span", { className: `stage-${name}`, title: `${name} ${ms(value)}` });
    part.style.flexGrow = String(value / (total || 1)); // shares that add up to 1 fill the bar
    return part;
  }));
  at("bar").ariaLabel = `Of ${ms(total)}: ${parts.map(([name, value]) => `${name} ${ms(value)}`).join(", ")}`;
  at("stages").replaceChildren(...parts.map(([name, value]) => {
    const colour = element("i", { className: `stage-${name}`, ariaHidden: "true" });
    return element("div", {}, element("dt", {}, colour, name), element("dd", { textContent: ms(value) }));
  }));
  const worker = headers.get("X-Worker");
  at("times").textContent = `${ms(total)} in the server${worker ? `, worker ${worker}` : ""}; ${ms(tripMs)} until the browser had the answer.`;
}

function changed() {
  if (at("at-once").checked && !(byUser() && !at("user").value.trim())) return recommend();
  asking.abort();
  at("answer").classList.add("stale"); // what is shown answers another question
}

const typed = afterwards(changed);
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  typed.cancel();
  recommend();
});
for (const radio of at("ask").elements.way) {
  radio.addEventListener("change", () => {
    at("by-films").hidden = byUser();
    at("by-user").hidden = !byUser();
    at(byUser() ? "user" : "title").focus();
    changed();
  });
}
at("user").addEventListener("input", typed.soon);
at("k").addEventListener("input", typed.soon);
at("exclude").addEventListener("change", changed);
at("at-once").addEventListener("change", changed);
