"use strict";

// Shows the OpenAPI document of this server, and sends requests. All text is set with textContent.
const at = (id) => document.getElementById(id);
const SHOWN_HEADERS = ["Content-Type", "Server-Timing", "X-Worker", "Retry-After", "Allow"];
const PROBLEM = "application/problem+json";

let whole; // the document

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

const text = (tag, content, className = "") => element(tag, { textContent: content, className });
// A sentence in which `this` is code
const prose = (content, className = "") =>
  element("p", { className }, content.split("`").map((part, place) => (place % 2 ? text("code", part) : part)));
const pretty = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

function resolved(node) {
  if (!node?.$ref) return node;
  return node.$ref.slice(2).split("/").reduce((found, key) => found[key.replace(/~1/g, "/").replace(/~0/g, "~")], whole);
}

// Schemas in words

const named = (schema) => schema.$ref.split("/").pop();

/** A schema's type as nodes: text, and links to the schemas that it names. */
function typed(schema) {
  if (schema.$ref) return [element("a", { href: `#schema-${named(schema)}`, textContent: named(schema) })];
  if ("const" in schema) return [JSON.stringify(schema.const)];
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
  const either = schema.anyOf || (schema.properties ? null : schema.oneOf);
  if (either) return either.flatMap((kind, place) => [...(place ? [" or "] : []), ...typed(kind)]);
  if (schema.type === "array") return ["list of ", ...typed(schema.items || {}), limits(schema)];
  return [(schema.type || "anything") + limits(schema)];
}

function limits(schema) {
  const told = [];
  const range = (low, high, unit) => {
    if (low !== undefined && high !== undefined) told.push(`${low} to ${high}${unit}`);
    else if (low !== undefined) told.push(`at least ${low}${unit}`);
    else if (high !== undefined) told.push(`at most ${high}${unit}`);
  };
  range(schema.minimum, schema.maximum, "");
  range(schema.minLength, schema.maxLength, " characters");
  range(schema.minItems, schema.maxItems, " entries");
  if (schema.pattern) told.push(`matching ${schema.pattern}`);
  return told.length ? `, ${told.join(", ")}` : "";
}

function field(name, schema, required, description = schema.description) {
  const after = schema.default != null ? `; ${JSON.stringify(schema.default)} by default` : required ? "; required" : "";
  return element("div", {},
    element("dt", {}, text("code", name)),
    element("dd", {}, description ? prose(description) : null, element("p", { className: "quiet" }, typed(schema), after)));
}

function fields(schema) {
  const rows = Object.entries(schema.properties || {}).map(([name, inner]) => field(name, inner, (schema.required || []).includes(name)));
  const ways = (schema.oneOf || []).map((way) => `${(way.required || []).join(", ")} (${way.title})`);
  return [
    ways.length ? text("p", `Exactly one of: ${ways.join("; ")}.`) : null,
    schema.additionalProperties === false ? text("p", "No other fields.", "quiet") : null,
    element("dl", { className: "fields" }, rows),
  ];
}

// Operations

function examples(media) {
  if (media.examples) return Object.values(media.examples).map((example) => [resolved(example).summary, resolved(example).value]);
  return "example" in media ? [["Example", media.example]] : [];
}

function responseRow(status, response) {
  const contents = Object.entries(response.content || {});
  const headers = Object.entries(response.headers || {}).map(([name, header]) =>
    element("p", { className: "quiet" }, text("code", name), ` ${resolved(header).description}`));
  const kinds = contents.filter(([type]) => type !== PROBLEM); // of problems the heading tells
  return element("div", {},
    element("dt", {}, text("code", status)),
    element("dd", {},
      prose(response.description),
      kinds.map(([type, media]) => element("p", { className: "quiet" }, text("code", type), " ", media.schema?.$ref ? typed(media.schema) : "")),
      headers,
      contents.flatMap(([, media]) => examples(media)).map(([summary, value]) =>
        element("details", {}, text("summary", summary), text("pre", pretty(value))))));
}

function sender(path, method, operation) {
  const parameters = (operation.parameters || []).map(resolved);
  const inputs = parameters.map((parameter) => {
    const shown = parameter.schema.examples?.[0] ?? parameter.schema.default ?? "";
    return [parameter.name, element("input", { type: "text", value: String(shown) })];
  });
  const media = operation.requestBody?.content["application/json"];
  const bodies = media ? examples(media) : [];
  const body = media ? element("textarea", { value: pretty(bodies[0]?.[1] ?? {}), spellcheck: false }) : null;
  const choice = bodies.length > 1 ? element("select", {}, bodies.map(([summary], place) => element("option", { value: String(place), textContent: summary }))) : null;
  choice?.addEventListener("change", () => { body.value = pretty(bodies[Number(choice.value)][1]); });
  const output = element("div", { role: "status" });
  const form = element("form", { noValidate: true, autocomplete: "off" },
    inputs.map(([name, input]) => element("label", {}, name, input)),
    choice ? element("label", {}, "Example", choice) : null,
    body ? element("label", {}, "Body", body) : null,
    element("button", { type: "submit", textContent: `Send ${method.toUpperCase()} ${path}` }));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const query = new URLSearchParams(inputs.filter(([, input]) => input.value).map(([name, input]) => [name, input.value]));
    const address = path.slice(1) + (query.size ? `?${query}` : "");
    const options = { method: method.toUpperCase() };
    if (body) Object.assign(options, { body: body.value, headers: { "Content-Type": "application/json" } });
    await send(address || ".", options, output);
  });
  return element("details", { className: "send" }, text("summary", "Send a request"), form, output);
}

async function send(address, options, output) {
  try {
    const start = performance.now();
    const response = await fetch(address, options);
    const content = await response.text();
    const ms = performance.now() - start;
    const headers = SHOWN_HEADERS.filter((name) => response.headers.has(name)).map((name) => `${name}: ${response.headers.get(name)}`);
    let shown = content;
    try { shown = pretty(JSON.parse(content)); } catch { /* no JSON: shown as it came */ }
    output.replaceChildren(
      text("p", `${response.status} ${response.statusText} after ${ms.toFixed(1)} ms`),
      text("pre", headers.join("\n")),
      text("pre", shown));
  } catch {
    output.replaceChildren(text("p", "The server cannot be reached. It may be starting or stopped; try again.", "problem"));
  }
}

function operationCard(path, method, operation) {
  const body = operation.requestBody?.content["application/json"];
  return element("section", { id: operation.operationId, className: "card" },
    element("h3", {}, text("span", method.toUpperCase(), `method ${method}`), text("code", path), text("span", operation.summary)),
    operation.description ? prose(operation.description) : null,
    operation.parameters ? [text("h4", "Query"), element("dl", { className: "fields" },
      operation.parameters.map(resolved).map((p) => field(p.name, p.schema, p.required, p.description)))] : null,
    body ? [element("h4", { id: `schema-${named(body.schema)}`, textContent: `Body: ${named(body.schema)}` }), prose(resolved(body.schema).description), fields(resolved(body.schema))] : null,
    element("h4", {}, "Answers; from 400 on ", text("code", PROBLEM), ", ", element("a", { href: "#schema-Problem", textContent: "Problem" })),
    element("dl", { className: "fields" }, Object.entries(operation.responses).map(([status, response]) => responseRow(status, resolved(response)))),
    sender(path, method, operation));
}

function show() {
  document.title = `${whole.info.title}: interface`;
  at("name").textContent = `${whole.info.title} ${whole.info.version}`;
  at("about").textContent = [whole.info.summary, whole.info.description].filter(Boolean).join(" ").replaceAll("`", "");
  const operations = Object.entries(whole.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })));
  at("contents").hidden = false;
  at("contents").append(element("ul", {}, operations.map(({ path, method, operation }) =>
    element("li", {}, text("span", method.toUpperCase(), `method ${method}`),
      element("a", { href: `#${operation.operationId}`, textContent: path }), text("span", operation.summary, "quiet")))));
  at("operations").append(text("h2", "Requests"), ...operations.map(({ path, method, operation }) => operationCard(path, method, operation)));
  at("operations").append(text("h2", "Schemas"), ...Object.entries(whole.components.schemas).filter(([name]) => !at(`schema-${name}`)).map(([name, schema]) =>
    element("section", { id: `schema-${name}`, className: "card" }, text("h3", name), schema.description ? prose(schema.description) : null, fields(schema))));
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

async function load() {
  try {
    const response = await fetch("openapi.json");
    if (!response.ok) throw new Error(String(response.status));
    whole = await response.json();
  } catch {
    at("problem").textContent = "The OpenAPI document cannot be read from the server. Reload the page to try again.";
    at("problem").hidden = false;
    return;
  }
  show();
}

load();
