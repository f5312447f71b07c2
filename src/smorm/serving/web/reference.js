// The API as openapi.json describes it: each route with its fields, examples and errors, to try here.
import { ask, attempt, begin, byId, make, send } from "./common.js";

const pretty = (value) => JSON.stringify(value, null, 2);
const nameOf = (reference) => reference.split("/").at(-1);
let api = null; // openapi.json

// ---- types in words ----

const linkTo = (name) => make("a", { href: "#shape-" + name, textContent: name });

// Nodes that say what values a schema allows.
function type(schema) {
  if (schema.$ref) return [linkTo(nameOf(schema.$ref))];
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return choices.flatMap((choice, index) => [...(index ? [" or "] : []), ...type(choice)]);
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
  if ("const" in schema) return [JSON.stringify(schema.const)];
  if (schema.type === "array") return ["list of ", ...type(schema.items ?? {})];
  if (schema.type === "object") {
    const values = schema.additionalProperties;
    return typeof values === "object" ? ["object of name: ", ...type(values)] : ["object"];
  }
  return [schema.type ?? "anything"];
}

function bounds(schema) {
  const parts = [];
  for (const [key, words] of [["minimum", "at least"], ["maximum", "at most"], ["minItems", "at least"]]) {
    for (const one of [schema, ...(schema.anyOf ?? [])]) {
      if (key in one) parts.push(`${words} ${one[key].toLocaleString("en")}${key === "minItems" ? " of them" : ""}`);
    }
  }
  if (schema.default !== undefined && schema.default !== null) parts.push("default " + JSON.stringify(schema.default));
  return parts.join(", ");
}

function fields(schema) {
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) => {
    const about = make("td", {}, ...type(field));
    const more = [bounds(field), field.description].filter(Boolean).join(". ");
    if (more) about.append(make("div", { className: "soft", textContent: more }));
    const head = make("th", { scope: "row" }, make("code", { textContent: name }));
    if (!required.has(name)) head.append(make("small", { textContent: " optional" }));
    return make("tr", {}, head, about);
  });
  return make("table", { className: "fields" }, make("tbody", {}, ...rows));
}

// The fields of what a schema names, or its type where it has none.
function shape(schema) {
  const resolved = schema.$ref ? api.components.schemas[nameOf(schema.$ref)] : schema;
  if (resolved.properties) return fields(resolved);
  return make("p", {}, ...type(resolved));
}

// [name, value] of each example.
function examples(media) {
  const named = Object.entries(media.examples ?? {}).map(([name, one]) => [one.summary ?? name, one.value]);
  if (named.length) return named;
  if (media.example !== undefined) return [["example", media.example]];
  const schema = media.schema?.$ref ? api.components.schemas[nameOf(media.schema.$ref)] : media.schema;
  return (schema?.examples ?? []).map((value, index) => ["example " + (index + 1), value]);
}

// ---- routes ----

function curl(method, path, body) {
  const lines = ["curl " + new URL("." + path, location.href).href];
  if (api.security) lines.push('-H "Authorization: Bearer $TOKEN"');
  if (body !== undefined) {
    lines.push("-H 'Content-Type: application/json'");
    lines.push("-d '" + body.replaceAll("'", "'\\''") + "'");
  }
  return lines.join(" \\\n  ");
}

function trial(method, path, operation) {
  const media = operation.requestBody?.content["application/json"];
  const parts = [];
  let area = null;
  const command = make("pre");
  const tell = () => { command.textContent = curl(method, path, area?.value); };
  if (media) {
    const known = examples(media);
    area = make("textarea", { rows: 8, spellcheck: false, className: "code", value: pretty(known[0]?.[1] ?? {}) });
    area.setAttribute("aria-label", "Body of " + path);
    area.addEventListener("input", tell);
    if (known.length > 1) {
      const choice = make("select", {}, ...known.map(([name], index) => new Option(name, index)));
      choice.setAttribute("aria-label", "Example of " + path);
      choice.addEventListener("change", () => { area.value = pretty(known[choice.value][1]); tell(); });
      parts.push(choice);
    }
    parts.push(area);
  }
  const status = make("strong", { role: "status" });
  const answer = make("pre", { hidden: true, tabIndex: 0 });
  const go = make("button", { type: "button", textContent: "Send" });
  go.addEventListener("click", async () => {
    status.textContent = "…";
    try {
      const response = await send("." + path, { method, body: area?.value });
      const text = await response.text();
      status.textContent = response.status + " " + response.statusText;
      try { answer.textContent = pretty(JSON.parse(text)); } catch { answer.textContent = text; }
      answer.hidden = false;
    } catch {
      status.textContent = "The server does not answer. Is it still running?";
      answer.hidden = true;
    }
  });
  tell();
  return make("details", {}, make("summary", { textContent: "Try it" }),
    make("div", { className: "stack" }, ...parts, make("div", { className: "line" }, go, status), answer,
      make("details", {}, make("summary", { textContent: "As a command" }), command)));
}

function answers(operation) {
  const parts = [];
  const errors = [];
  for (const [status, response] of Object.entries(operation.responses)) {
    const media = response.content?.["application/json"];
    if (Number(status) >= 300) {
      errors.push(make("tr", {}, make("th", { scope: "row", textContent: status }), make("td", { textContent: response.description })));
      continue;
    }
    parts.push(make("h4", { textContent: "Answer" }));
    if (media) parts.push(shape(media.schema));
    else parts.push(make("p", { textContent: Object.keys(response.content ?? {}).join(", ") }));
    const known = media ? examples(media) : [];
    if (known.length) {
      parts.push(make("details", {}, make("summary", { textContent: "Example of an answer" }), make("pre", { textContent: pretty(known[0][1]), tabIndex: 0 })));
    }
  }
  if (errors.length) {
    const table = make("table", { className: "fields errors" }, make("tbody", {}, ...errors));
    parts.push(make("details", {}, make("summary", { textContent: "Errors" }), table));
  }
  return parts;
}

function route(method, path, operation) {
  const parts = [
    make("h3", {}, make("span", { className: "method", textContent: method.toUpperCase() }), make("code", { textContent: path })),
    make("p", { className: "summary", textContent: operation.summary }),
  ];
  if (operation.description) parts.push(make("p", { className: "soft", textContent: operation.description }));
  const media = operation.requestBody?.content["application/json"];
  if (media) parts.push(make("h4", { textContent: "Request" }), shape(media.schema));
  parts.push(...answers(operation), trial(method.toUpperCase(), path, operation));
  return make("section", { className: "card route", id: operation.operationId }, ...parts);
}

// ---- the page ----

async function read() {
  api = await ask("openapi.json");
  byId("about").textContent = api.info.version + " · " + api.info.description;
  const groups = new Map(api.tags.map((tag) => [tag.name, { ...tag, routes: [] }]));
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      groups.get(operation.tags[0]).routes.push([method, path, operation]);
    }
  }
  const contents = [], sections = [];
  for (const { name, description, routes } of groups.values()) {
    contents.push(make("strong", { textContent: name }));
    contents.push(...routes.map(([, path, operation]) => make("a", { href: "#" + operation.operationId, textContent: path })));
    sections.push(make("h2", { textContent: name }), make("p", { className: "soft", textContent: description }));
    sections.push(...routes.map((one) => route(...one)));
  }
  sections.push(make("h2", { textContent: "Shapes" }));
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    const about = schema.description ? [make("p", { className: "soft", textContent: schema.description })] : [];
    sections.push(make("section", { className: "card", id: "shape-" + name }, make("h3", { textContent: name }), ...about, shape(schema)));
  }
  byId("contents").replaceChildren(...contents);
  byId("reference").replaceChildren(...sections);
  // The part that the address names was not there when the page was loaded.
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

// Followed as a link it would go without the token.
byId("raw").addEventListener("click", (event) => {
  event.preventDefault();
  attempt(async () => {
    const file = new Blob([pretty(await ask("openapi.json"))], { type: "application/json" });
    make("a", { href: URL.createObjectURL(file), download: "openapi.json" }).click();
  });
});

begin();
attempt(read).then(() => { if (api === null) byId("about").textContent = ""; });
