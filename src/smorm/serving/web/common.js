// What both pages use: elements, requests, the token, the theme. Texts become text nodes, never HTML.

export const byId = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// ---- requests ----

const TOKEN = "smorm-token";
// For this tab's session alone; it travels in a header, never in an address.
let token = sessionStorage.getItem(TOKEN) ?? "";

export class Refusal extends Error {
  constructor(message, status = 0, kind = "") {
    super(message);
    this.status = status;
    this.kind = kind;
  }
}

export function send(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  if (token) headers.Authorization = "Bearer " + token;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  return fetch(path, { method, headers, body, signal });
}

// The JSON of an answer; a Refusal in plain words for everything else.
export async function ask(path, value, signal) {
  const request = { signal };
  if (value !== undefined) Object.assign(request, { method: "POST", body: JSON.stringify(value) });
  let response, text;
  try {
    response = await send(path, request);
    text = await response.text();
  } catch (error) {
    throw new Refusal(error.name === "AbortError" ? "Stopped." : "The server does not answer. Is it still running?");
  }
  let answer = null;
  try { answer = JSON.parse(text); } catch { /* told by inWords */ }
  if (response.ok && answer !== null) return answer;
  const error = answer?.error ?? {};
  throw new Refusal(inWords(response, error), response.status, error.type);
}

function inWords(response, error) {
  const said = error.message ?? "";
  const field = error.field ? ` (field ${error.field})` : "";
  const seconds = response.headers.get("Retry-After");
  switch (response.status) {
    case 401: return token ? "The server does not know this token." : "This server needs a token.";
    case 404: return error.type === "unknown_model" ? `The server has no such model: ${said}.` : "The server has no such address.";
    case 408: return "The request took too long to arrive. Try again.";
    case 413: return `This is too much for one request: ${said}.`;
    case 422: return (["bad_item", "too_long"].includes(error.type) ? "This cannot be scored: " : "The server cannot read the request: ") + said + field + ".";
    case 429: return `The server is busy: ${said}. Try again${seconds ? ` in ${seconds} s` : " in a moment"}.`;
    case 500: return `The model failed: ${said || "the server gave no reason"}.`;
    case 503: return "The server is stopping, and takes nothing new.";
    case 504: return `It took too long: ${said}.`;
    default: return said ? said + field : `What answered is not this server: status ${response.status}.`;
  }
}

// ---- the token and what is said of errors: forms that both pages have ----

export function say(error) {
  byId("error").textContent = error ? error.message : "";
  byId("error").hidden = !error;
}

// Does `action`; where a token is needed asks for it, and does the action again.
export async function attempt(action) {
  try {
    await action();
    say(null);
    byId("token-form").hidden = true;
    byId("forget").hidden = !token;
  } catch (error) {
    say(error);
    if (error.status !== 401) return;
    byId("token-form").hidden = false;
    byId("token").focus();
    byId("token-form").onsubmit = (event) => {
      event.preventDefault();
      token = byId("token").value.trim();
      sessionStorage.setItem(TOKEN, token);
      byId("token").value = "";
      attempt(action);
    };
  }
}

export function copy(text) {
  // Without HTTPS, beyond this machine, a page has no clipboard.
  return navigator.clipboard ? navigator.clipboard.writeText(text) : Promise.reject(new Error("no clipboard"));
}

// ---- the theme: the system's, until another is chosen ----

const THEMES = ["light dark", "light", "dark"];
const THEME_NAMES = { "light dark": "Theme: system", light: "Theme: light", dark: "Theme: dark" };

function setTheme(theme) {
  document.documentElement.style.colorScheme = theme;
  byId("theme").textContent = THEME_NAMES[theme];
  sessionStorage.setItem("smorm-theme", theme);
}

export function begin() {
  let theme = sessionStorage.getItem("smorm-theme") ?? THEMES[0];
  setTheme(theme);
  byId("theme").addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    setTheme(theme);
  });
  byId("forget").addEventListener("click", () => {
    sessionStorage.removeItem(TOKEN);
    location.reload();
  });
}
