// Markdown within a line, as DOM nodes: strong, emphasis, strike, code, links.
//
// Links go to http, https and mailto only, in a tab of their own. Images are shown as links: the page loads nothing from
// another host.
//
// A mark is closed by its own kind only, and underscores mark nothing within a word. Emphasis comes before strong: three
// stars may begin one within the other.

import { el } from "./dom.js";

const INLINE =
  /(?<code>(?<ticks>`+)(?!`)(?<codeText>[^\n]{0,2000}?[^`\n])\k<ticks>(?!`))|(?<link>!?\[(?<label>[^[\]\n]{0,500})\]\((?<href>[^()\s]{1,2000})\))|(?<url>https?:\/\/[^\s<>()"']{1,2000}[^\s<>()"'.,;:!?])|(?<both>\*\*\*(?=[^\s*])(?<bothText>[^*\n]{0,1000}[^\s*])\*\*\*)|(?<em>\*(?=[^\s*]|\*\*[^\s*])(?<emText>(?:[^*\n]|\*\*(?=\S)[^*\n]{1,500}\*\*){1,1000})(?<!\s)\*(?!\*)|(?<!\w)_(?=[^\s_])(?<emText2>[^_\n]{0,1000}[^\s_])_(?!\w))|(?<strong>\*\*(?=\*?[^\s*])(?<strongText>[^\n]{0,1000}?\S)\*\*(?!\*(?!\*))|(?<!\w)__(?=\S)(?<strongText2>[^\n]{0,1000}?\S)__(?!\w))|(?<strike>~~(?=\S)(?<strikeText>[^\n]{0,1000}?\S)~~)|\\(?<escaped>[\\`*_{}[\]()#+.!|>~-])/g;

const DEEPEST = 8;

export function inline(text, depth = 0) {
  if (depth > DEEPEST) return [text];
  const nodes = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    if (match.index > at) nodes.push(text.slice(at, match.index));
    at = match.index + match[0].length;
    nodes.push(...span(match.groups, depth));
  }
  if (at < text.length) nodes.push(text.slice(at));
  return nodes;
}

function span(found, depth) {
  if (found.code) return [el("code", {}, found.codeText.replace(/^ (.*) $/, "$1"))];
  if (found.link) return [link(found.href, inline(found.label, depth + 1), found.link)];
  if (found.url) return [link(found.url, [found.url], found.url)];
  if (found.both) return [el("strong", {}, el("em", {}, ...inline(found.bothText, depth + 1)))];
  if (found.strong) return [el("strong", {}, ...inline(found.strongText ?? found.strongText2, depth + 1))];
  if (found.strike) return [el("s", {}, ...inline(found.strikeText, depth + 1))];
  if (found.em) return [el("em", {}, ...inline(found.emText ?? found.emText2, depth + 1))];
  return [found.escaped];
}

function link(href, label, source) {
  if (!/^(https?:\/\/|mailto:)/i.test(href)) return document.createTextNode(source);
  return el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...label);
}
