// Making DOM nodes. Text is always a text node, never markup: nothing in this page parses HTML.

const SVG = "http://www.w3.org/2000/svg";

export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function byId(id) {
  return document.getElementById(id);
}

// A path of this server, also where a proxy serves it below a prefix. An empty one is the server's root, not this page.
export function address(path) {
  return new URL(`./${path}`, document.baseURI).href;
}

export async function copyText(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return;
    } catch {
      // Not allowed here (plain http on another machine): the old way below still is.
    }
  }
  const field = el("textarea", { class: "away", readonly: true }, text);
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

export function saveFile(name, type, text) {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// Says on the button itself that it was done, without moving anything.
export function acknowledge(button, words) {
  const before = button.dataset.label ?? button.textContent;
  button.dataset.label = before;
  button.textContent = words;
  clearTimeout(button.acknowledged);
  button.acknowledged = setTimeout(() => (button.textContent = before), 1_600);
}

export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
