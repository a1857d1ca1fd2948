// The markdown of an answer as DOM nodes: text becomes text nodes, and nothing is ever parsed as HTML.
//
// 1. A small, common part of markdown: headings, paragraphs, lists, quotes, fenced code, tables, rules; strong, emphasis,
//    strike, code, links. What is not understood is shown as it was written.
// 2. Links go to http, https and mailto only, in a tab of their own. Images are shown as links: the page loads nothing
//    from another host.
// 3. While an answer grows, only its last blocks change: `Answer` keeps the nodes of those that did not.

import { el } from "./dom.js";

export class Answer {
  #sources = [];

  constructor(node) {
    this.node = node;
  }

  show(text) {
    const sources = blocks(text);
    let same = 0;
    while (same < sources.length && sources[same] === this.#sources[same]) same += 1;
    while (this.node.childNodes.length > same) this.node.lastChild.remove();
    for (const source of sources.slice(same)) this.node.append(block(source));
    this.#sources = sources;
  }
}

// Blocks as source texts: separated by blank lines, except within a fence.
export function blocks(text) {
  const found = [];
  let lines = [];
  let fence = null;
  const flush = () => {
    if (lines.length) found.push(lines.join("\n"));
    lines = [];
  };
  for (const line of text.replace(/\r\n?/g, "\n").split("\n")) {
    const mark = /^ {0,3}(`{3,}|~{3,})/.exec(line)?.[1];
    if (fence) {
      lines.push(line);
      if (mark?.startsWith(fence) && line.trim() === mark) {
        fence = null;
        flush();
      }
    } else if (mark) {
      flush();
      fence = mark;
      lines.push(line);
    } else if (!line.trim()) {
      // A list goes on after a blank line when its next line is indented or another item.
      if (lines.length && LIST.test(lines[0])) lines.push("");
      else flush();
    } else {
      if (lines.at(-1) === "" && !/^\s+\S/.test(line) && !LIST.test(line)) {
        while (lines.at(-1) === "") lines.pop();
        flush();
      }
      if (/^ {0,3}#{1,6}\s/.test(line)) {
        flush();
        found.push(line);
      } else lines.push(line);
    }
  }
  while (lines.at(-1) === "" && !fence) lines.pop();
  flush();
  return found;
}

const LIST = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;

function block(source) {
  const lines = source.split("\n");
  const fence = /^ {0,3}(`{3,}|~{3,})[ \t]*([\w+#.-]*)/.exec(source);
  if (fence) {
    const body = lines.slice(1, lines.length > 1 && lines.at(-1).trim().startsWith(fence[1]) ? -1 : undefined);
    return el("pre", { tabindex: 0, "data-language": fence[2] || null }, el("code", {}, body.join("\n")));
  }
  const heading = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/.exec(source);
  if (heading && lines.length === 1) return el(`h${Math.min(heading[1].length + 2, 6)}`, {}, ...inline(heading[2]));
  if (/^ {0,3}([-*_])(\s*\1){2,}\s*$/.test(source)) return el("hr");
  if (lines.every((line) => /^ {0,3}>/.test(line))) {
    const inner = el("blockquote");
    new Answer(inner).show(lines.map((line) => line.replace(/^ {0,3}> ?/, "")).join("\n"));
    return inner;
  }
  if (LIST.test(lines[0])) return list(lines);
  if (lines.length > 1 && lines[0].includes("|") && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[1]))
    return table(lines);
  return paragraph(lines);
}

function paragraph(lines) {
  return el("p", {}, ...withBreaks(lines));
}

function withBreaks(lines) {
  return lines.flatMap((line, index) => [
    ...(index ? [/( {2}|\\)$/.test(lines[index - 1]) ? el("br") : "\n"] : []),
    ...inline(line.replace(/( {2,}|\\)$/, "")),
  ]);
}

function list(lines) {
  const [, indent, mark] = LIST.exec(lines[0]);
  const ordered = /\d/.test(mark);
  const node = ordered ? el("ol", { start: parseInt(mark, 10) === 1 ? null : parseInt(mark, 10) }) : el("ul");
  let item = [];
  const flush = () => item.length && node.append(listItem(item));
  for (const line of lines) {
    const found = LIST.exec(line);
    if (found && found[1].length <= indent.length + 1) {
      flush();
      item = [found[3]];
    } else item.push(line);
  }
  flush();
  return node;
}

function listItem(lines) {
  const nested = lines.findIndex((line, index) => index > 0 && LIST.test(line));
  const own = (nested < 0 ? lines : lines.slice(0, nested)).map((line) => line.trim()).filter(Boolean);
  const rest = nested < 0 ? [] : lines.slice(nested).filter((line) => line.trim());
  return el("li", {}, ...withBreaks(own), rest.length ? list(rest) : null);
}

function table(lines) {
  const cells = (line) =>
    line
      .trim()
      .replace(/^\||\|$/g, "")
      .split(/(?<!\\)\|/)
      .map((cell) => cell.trim().replaceAll("\\|", "|"));
  const row = (line, tag) => el("tr", {}, ...cells(line).map((cell) => el(tag, {}, ...inline(cell))));
  const body = lines.slice(2).map((line) => row(line, "td"));
  return el(
    "div",
    { class: "table", tabindex: 0 },
    el("table", {}, el("thead", {}, row(lines[0], "th")), el("tbody", {}, ...body)),
  );
}

const INLINE =
  /(?<code>(?<ticks>`+)(?!`)(?<codeText>[^\n]{0,2000}?[^`\n])\k<ticks>(?!`))|(?<link>!?\[(?<label>[^[\]\n]{0,500})\]\((?<href>[^()\s]{1,2000})\))|(?<url>https?:\/\/[^\s<>()"']{1,2000}[^\s<>()"'.,;:!?])|(?<strong>(?:\*\*|__)(?=\S)(?<strongText>[^\n]{0,1000}?\S)(?:\*\*|__))|(?<strike>~~(?=\S)(?<strikeText>[^\n]{0,1000}?\S)~~)|(?<em>\*(?=[^\s*])(?<emText>[^*\n]{0,1000}[^\s*])\*|(?<![\w_])_(?=[^\s_])(?<emText2>[^_\n]{0,1000}[^\s_])_(?!\w))|\\(?<escaped>[\\`*_{}[\]()#+.!|>~-])/g;

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
  if (found.strong) return [el("strong", {}, ...inline(found.strongText, depth + 1))];
  if (found.strike) return [el("s", {}, ...inline(found.strikeText, depth + 1))];
  if (found.em) return [el("em", {}, ...inline(found.emText ?? found.emText2, depth + 1))];
  return [found.escaped];
}

function link(href, label, source) {
  if (!/^(https?:\/\/|mailto:)/i.test(href)) return document.createTextNode(source);
  return el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...label);
}
