// Compare answers: a conversation and two or more answers go to the server, its scores are shown.
import { ask, attempt, begin, byId, copy, make, say, Refusal } from "./common.js";

const ABOUT_VIEWS = { F: "preference", L: "attributes", M: "both" };
// Faults of one answer; the server refuses the whole comparison for them.
const OF_AN_ANSWER = new Set(["bad_item", "too_long", "non_finite", "model_failed"]);

let info = null; // of /v1/info
let shown = null; // the comparison whose scores are on the page
let running = null; // the AbortController of the request under way
const history = [];

const cards = () => [...byId("answers").children];
const model = () => info.models[byId("model").value];
const titleOf = (view) => (view in ABOUT_VIEWS ? `${view} (${ABOUT_VIEWS[view]})` : view);
const number = (value) => value.toFixed(3).replace("-", "−");

// ---- what is compared ----

function addTurn(assistant = "", user = "") {
  const name = "turn-" + Math.random().toString(36).slice(2);
  const field = (role, value) => {
    const area = make("textarea", { value, rows: 2, id: name + role, className: role });
    return make("div", {}, make("label", { htmlFor: area.id, textContent: role === "user" ? "User" : "Assistant" }), area);
  };
  const turn = make("div", { className: "stack" });
  if (byId("turns").children.length) {
    const remove = make("button", { type: "button", className: "quiet end", textContent: "Remove this turn" });
    remove.addEventListener("click", () => {
      const previous = turn.previousElementSibling;
      turn.remove();
      edited();
      previous.querySelector("textarea").focus();
    });
    turn.append(field("assistant", assistant), field("user", user), make("div", { className: "line" }, remove));
  } else {
    turn.append(field("user", user));
  }
  byId("turns").append(turn);
  edited();
  return turn.querySelector("textarea");
}

function addAnswer(text = "") {
  const area = make("textarea", { value: text, rows: 3 });
  const remove = make("button", { type: "button", className: "quiet end", textContent: "×", title: "Remove this answer" });
  const card = make("div", { className: "card answer" },
    make("div", { className: "line" }, make("label"), make("span", { className: "badge" }), remove),
    area, make("div", { className: "scores" }));
  remove.addEventListener("click", () => {
    const neighbour = card.nextElementSibling ?? card.previousElementSibling;
    card.remove();
    renumber();
    edited();
    neighbour.querySelector("textarea").focus();
  });
  byId("answers").append(card);
  renumber();
  edited();
  return area;
}

function renumber() {
  cards().forEach((card, index) => {
    const label = card.querySelector("label");
    label.textContent = "Answer " + (index + 1);
    label.htmlFor = card.querySelector("textarea").id = "answer-" + (index + 1);
    const remove = card.querySelector("button");
    remove.disabled = cards().length < 3;
    remove.setAttribute("aria-label", "Remove answer " + (index + 1));
  });
  byId("add").disabled = info !== null && cards().length >= info.limits.items;
}

// The fields as they stand, as plain values.
function fields() {
  return {
    model: byId("model").value,
    system: byId("system").value,
    turns: [...byId("turns").children].map((turn) => ({
      assistant: turn.querySelector(".assistant")?.value ?? "",
      user: turn.querySelector(".user").value,
    })),
    answers: cards().map((card) => card.querySelector("textarea").value),
    shorten: byId("shorten").checked,
  };
}

function fill(values) {
  byId("model").value = values.model;
  byId("system").value = values.system;
  byId("shorten").checked = values.shorten;
  byId("turns").replaceChildren();
  byId("answers").replaceChildren();
  values.turns.forEach((turn) => addTurn(turn.assistant, turn.user));
  values.answers.forEach((text) => addAnswer(text));
}

function messages(values) {
  const prompt = values.system ? [{ role: "system", content: values.system }] : [];
  values.turns.forEach((turn, index) => {
    if (index) prompt.push({ role: "assistant", content: turn.assistant });
    prompt.push({ role: "user", content: turn.user });
  });
  return prompt;
}

// Scores that no longer belong to what stands in the fields are dimmed, and said to be old.
function edited() {
  const stale = shown !== null && JSON.stringify(fields()) !== JSON.stringify(shown.values);
  byId("right").classList.toggle("stale", stale);
  byId("stale").hidden = !stale;
}

// ---- asking the server ----

function viewsOf(about) {
  const views = [...about.views];
  if (about.default_view !== null && !views.includes(about.default_view)) views.unshift(about.default_view);
  // Another trainer's rows: none is the reward, so each is shown as a view of its own.
  return views.length ? views : about.rows.map((row) => ({ [row]: 1 }));
}

async function compared(request, texts, places, signal) {
  const answer = await ask("v1/compare", { ...request, responses: places.map((place) => texts[place]) }, signal);
  const responses = Array(texts.length).fill(null);
  answer.responses.forEach((response, index) => { responses[places[index]] = response; });
  const verdicts = {};
  for (const [name, verdict] of Object.entries(answer.views)) {
    verdicts[name] = { order: verdict.order.map((index) => places[index]), margin: verdict.margin };
  }
  return { responses, verdicts, changes: answer.changes };
}

async function scored(values, signal) {
  const texts = values.answers;
  const every = texts.map((_, index) => index);
  const common = { model: values.model, views: viewsOf(model()), truncation: values.shorten ? "left_prompt" : "refuse" };
  const prompt = messages(values);
  let refusal;
  try {
    return { ...await compared({ ...common, prompt }, texts, every, signal), errors: every.map(() => null) };
  } catch (error) {
    if (!OF_AN_ANSWER.has(error.kind)) throw error;
    refusal = error;
  }
  // Each by itself tells which of them it was; the others are compared without it.
  const { items } = await ask("v1/score", { ...common, items: texts.map((response) => ({ prompt, response })) }, signal);
  const errors = items.map((item) => item.error?.message ?? null);
  const good = every.filter((index) => errors[index] === null);
  if (good.length === texts.length) throw refusal;
  if (good.length > 1) return { ...await compared({ ...common, prompt }, texts, good, signal), errors };
  const responses = items.map((item) => (item.error ? null : item));
  return { responses, verdicts: {}, changes: good.length ? items[good[0]].changes : [], errors };
}

async function compare() {
  const values = fields();
  const controller = new AbortController();
  running?.abort();
  running = controller;
  busy(true);
  try {
    const result = await scored(values, controller.signal);
    if (running !== controller) return;
    const entry = { values, ...result, view: chosenView(Object.keys(result.verdicts)) };
    history.unshift(entry);
    show(entry);
  } catch (error) {
    if (running === controller) throw error;
  } finally {
    if (running === controller) { running = null; busy(false); }
  }
}

function busy(now) {
  byId("go").textContent = now ? "Scoring …" : "Compare";
  byId("go").setAttribute("aria-busy", String(now));
  byId("stop").hidden = !now;
}

// The view that was chosen before, else the server's own.
function chosenView(names) {
  return [byId("view").value, model().default_view, "M", names[0]].find((name) => names.includes(name)) ?? null;
}

// ---- what it said ----

function show(entry) {
  shown = entry;
  const names = Object.keys(entry.verdicts);
  byId("view").replaceChildren(...names.map((name) => new Option(titleOf(name), name)));
  if (entry.view !== null) byId("view").value = entry.view;
  byId("verdict").hidden = !names.length;
  if (names.length) showVerdict(entry, names);
  cards().forEach((card, index) => showScores(entry, card, index));
  const notes = [];
  if (entry.changes.length) notes.push("Not written by the model's template: " + entry.changes.join("; ") + ".");
  if (Object.keys(model().scales).length) {
    notes.push("Attributes are on the scales of their ratings. Their bars begin at the mean rating in training; " +
      "those of L and M where every attribute has its mean, that of F at 0.");
  }
  byId("legend").textContent = notes.join(" ");
  byId("legend").hidden = !notes.length;
  byId("copied").textContent = "";
  showHistory();
  edited();
}

function labelOf(name) {
  return name in ABOUT_VIEWS ? [name + " ", make("small", { textContent: ABOUT_VIEWS[name] })] : [name];
}

function showVerdict(entry, names) {
  const { order, margin } = entry.verdicts[entry.view];
  const tie = margin === 0;
  const best = "answer " + (order[0] + 1), second = "answer " + (order[1] + 1);
  byId("headline").textContent = tie ? `A tie of ${best} and ${second}`
    : order.length === 2 ? `Answer ${order[0] + 1} wins by ${number(margin)}`
      : `Best of ${order.length}: ${best}, ${number(margin)} ahead of ${second}`;
  const detail = ["By " + titleOf(entry.view)];
  const [first, next] = [order[0], order[1]].map((index) => entry.responses[index].preference);
  if (first !== null) {
    // Bradley-Terry, over the preference row alone.
    const percent = (100 / (1 + Math.exp(next - first))).toFixed(1);
    detail.push(`the preference row prefers it to ${second} with a probability of ${percent} %`);
  }
  const others = names.filter((name) => entry.verdicts[name].order[0] !== order[0]);
  for (const name of others) detail.push(`${name} picks answer ${entry.verdicts[name].order[0] + 1} instead`);
  byId("detail").textContent = detail.join("; ") + ".";
  const head = make("tr", {}, ...["View", "Order, best first", "Best is ahead by"].map((text) => make("th", { scope: "col", textContent: text })));
  const rows = names.map((name) => {
    const verdict = entry.verdicts[name];
    return make("tr", { className: name === entry.view ? "chosen" : "" },
      make("th", { scope: "row" }, ...labelOf(name)),
      make("td", { textContent: verdict.order.map((index) => index + 1).join(" › ") }),
      make("td", { textContent: number(verdict.margin) }));
  });
  byId("views").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

function showScores(entry, card, index) {
  const response = entry.responses[index], verdict = entry.verdicts[entry.view];
  const scores = card.querySelector(".scores"), badge = card.querySelector(".badge");
  const rank = verdict ? verdict.order.indexOf(index) : -1;
  card.classList.toggle("best", rank === 0);
  badge.textContent = "";
  scores.replaceChildren();
  if (response === null) {
    scores.append(make("p", { className: "note problem", textContent: "Not scored: " + entry.errors[index] + "." }));
    return;
  }
  if (rank === 0) badge.textContent = "Best by " + entry.view;
  if (rank > 0) {
    const best = entry.responses[verdict.order[0]].views[entry.view];
    badge.textContent = `No. ${rank + 1}, ${number(best - response.views[entry.view])} behind`;
  }
  const about = info.models[entry.values.model];
  const views = Object.entries(response.views).filter(([name]) => !(name in response.attributes));
  if (views.length) scores.append(measures("Views", views, axesOfViews(entry, about), entry.view));
  const attributes = Object.entries(response.attributes);
  if (attributes.length) scores.append(measures("Attributes", attributes, axesOfAttributes(entry, about), entry.view));
  const notes = [];
  if (response.tokens !== null) notes.push(response.tokens + " tokens with the conversation");
  notes.push(response.truncated ? `the conversation was shortened to ${about.max_tokens} tokens` : "nothing was cut");
  scores.append(make("p", { className: "note", textContent: notes.join(" · ") }));
}

// An axis is where bars begin, and how far they reach to either side.
function axesOfAttributes(entry, about) {
  const axes = {};
  for (const [name, scale] of Object.entries(about.scales)) {
    const from = scale.mean ?? 0;
    // A scale of standardised ratings is their standard deviation; of others it is their range.
    const standardised = scale.mean !== null && Math.abs(scale.mean - scale.offset) < 1e-6 * scale.scale;
    const reach = standardised ? 2.5 * scale.scale : scale.scale;
    axes[name] = { from, reach: Math.max(reach, ...values(entry, (one) => one.attributes[name] - from)) };
  }
  return axes;
}

function axesOfViews(entry, about) {
  const means = Object.values(about.scales).map((scale) => scale.mean);
  const known = means.length && means.every((mean) => mean !== null);
  const mean = known ? means.reduce((sum, one) => sum + one, 0) / means.length : 0;
  const begins = { L: mean, M: mean / 2 };
  const names = Object.keys(entry.verdicts);
  const distances = names.flatMap((name) => values(entry, (one) => one.views[name] - (begins[name] ?? 0)));
  const reach = Math.max(1e-9, ...distances);
  return Object.fromEntries(names.map((name) => [name, { from: begins[name] ?? 0, reach }]));
}

const values = (entry, pick) => entry.responses.filter((one) => one !== null).map((one) => Math.abs(pick(one)));

function measures(title, rows, axes, chosen) {
  const body = make("tbody");
  for (const [name, value] of rows) {
    const axis = axes[name] ?? { from: 0, reach: Math.max(Math.abs(value), 1) };
    const share = 50 * (value - axis.from) / axis.reach;
    const fill = make("div", { className: share < 0 ? "fill less" : "fill" });
    fill.style.left = 50 + Math.min(share, 0) + "%";
    fill.style.width = Math.abs(share) + "%";
    const middle = make("div", { className: "middle" });
    middle.style.left = "50%";
    const track = make("div", { className: "track", title: `from ${number(axis.from - axis.reach)} to ${number(axis.from + axis.reach)}, middle ${number(axis.from)}` }, fill, middle);
    track.setAttribute("aria-hidden", "true");
    body.append(make("tr", { className: name === chosen ? "chosen" : "" },
      make("th", { scope: "row" }, ...labelOf(name)),
      make("td", { textContent: number(value) }), make("td", { className: "bar" }, track)));
  }
  const table = make("table", { className: "measures" }, body);
  table.setAttribute("aria-label", title);
  return table;
}

function showHistory() {
  byId("past").hidden = !history.length;
  byId("history").replaceChildren(...history.map((entry) => {
    const { order, margin } = entry.verdicts[entry.view] ?? { order: [], margin: 0 };
    const result = order.length ? `answer ${order[0] + 1} of ${entry.values.answers.length} by ${number(margin)} (${entry.view})` : "not compared";
    const button = make("button", { type: "button" },
      entry.values.turns.at(-1).user.slice(0, 90) || "(empty prompt)",
      make("small", { textContent: (Object.keys(info.models).length > 1 ? entry.values.model + ": " : "") + result }));
    if (entry === shown) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => {
      fill(entry.values);
      show(entry);
      say(null);
      byId("history").children[history.indexOf(entry)].firstElementChild.focus();
    });
    return make("li", {}, button);
  }));
}

// ---- the start, and what the keys do ----

async function readInfo() {
  info = await ask("v1/info");
  const names = Object.keys(info.models);
  byId("model").replaceChildren(...names.map((name) => new Option(name, name)));
  byId("model-choice").hidden = names.length < 2;
  renumber();
  describe();
}

function describe() {
  const { rows, max_tokens: most } = model();
  const parts = [byId("model").value];
  if (rows.length) parts.push(rows.length === 1 ? "one row" : rows.length + " rows");
  if (most !== null) parts.push(`up to ${most.toLocaleString("en")} tokens`);
  byId("about").textContent = parts.join(" · ");
}

async function run() {
  // The server may have been started again, with other rewards.
  if (info === null) await readInfo();
  await compare();
}

byId("form").addEventListener("submit", (event) => { event.preventDefault(); attempt(run); });
byId("form").addEventListener("input", edited);
byId("add").addEventListener("click", () => addAnswer().focus());
byId("add-turn").addEventListener("click", () => addTurn().focus());
byId("stop").addEventListener("click", () => running?.abort());
byId("model").addEventListener("change", describe);
byId("view").addEventListener("change", () => {
  shown.view = byId("view").value;
  show(shown);
});
byId("copy").addEventListener("click", () => {
  const best = shown.verdicts[shown.view].order[0];
  copy(shown.values.answers[best]).then(
    () => { byId("copied").textContent = `Answer ${best + 1} is copied.`; },
    () => {
      cards()[best].querySelector("textarea").select();
      byId("copied").textContent = `Answer ${best + 1} is selected: copy it with Ctrl + C.`;
    });
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("form").requestSubmit();
  else if (event.altKey && event.code === "KeyA") addAnswer().focus();
  else if (event.altKey && event.code === "KeyM") addTurn().focus();
  else if (event.key === "Escape" && running) running.abort();
  else return;
  event.preventDefault();
});

begin();
addTurn("", "What is the capital of France?");
addAnswer("Paris is the capital of France.");
addAnswer("I am not sure, it may be Lyon.");
attempt(readInfo).then(() => { if (info === null && byId("token-form").hidden) byId("about").textContent = ""; });
