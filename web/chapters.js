// What the documentation page is made of: parts with entries, and the contents that list them.

import { byId, el } from "./dom.js";
import { inline } from "./inline.js";

const contents = [];

export function part(id, title, lead, entries) {
  byId("parts").append(
    el(
      "section",
      { class: "part", id, "aria-labelledby": `${id}-title` },
      el("h2", { id: `${id}-title` }, title),
      lead ? el("p", { class: "lead" }, ...inline(lead)) : null,
      ...entries,
    ),
  );
}

export function listed(group, id, label, badge = "", kind = "") {
  contents.push({ group, id, label, badge, kind });
}

export function entry(id, told, tried = []) {
  return el(
    "section",
    { class: tried.length ? "entry" : "entry wide", id },
    el("div", { class: "told" }, ...told),
    tried.length ? el("div", { class: "tried" }, ...tried) : null,
  );
}

export function drawContents() {
  const groups = [...new Set(contents.map(({ group }) => group))];
  byId("contents-list").append(
    ...groups.flatMap((group) => [
      el("h2", {}, group),
      el(
        "ul",
        {},
        ...contents
          .filter((one) => one.group === group)
          .map(({ id, label, badge, kind }) =>
            el(
              "li",
              {},
              el(
                "a",
                { href: `#${id}` },
                badge ? el("span", { class: `method ${kind}` }, badge) : null,
                el("span", {}, ...breakable(label)),
              ),
            ),
          ),
      ),
    ]),
  );
  const narrow = matchMedia("(max-width: 820px)");
  const fold = () => (byId("contents-details").open = !narrow.matches);
  narrow.addEventListener("change", fold);
  fold();
  const links = new Map(
    Array.from(byId("contents-list").querySelectorAll("a"), (link) => [link.getAttribute("href").slice(1), link]),
  );
  const seen = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting || !links.has(target.id)) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(target.id).setAttribute("aria-current", "true");
      }
    },
    { rootMargin: "-70px 0px -75% 0px" },
  );
  for (const id of links.keys()) if (byId(id)) seen.observe(byId(id));
}

// A path may break after its slashes, not within a name.
function breakable(path) {
  return path.split(/(?<=\/)/).flatMap((piece, index) => (index ? [el("wbr"), piece] : [piece]));
}
