// What /openapi.json says, drawn: schemas as lists of fields, and examples put together from theirs.

import { el } from "./dom.js";
import { inline } from "./inline.js";

export class Schemas {
  constructor(document) {
    this.all = document.components.schemas;
  }

  // What a field's name means, whichever object it stands in.
  meaning(name) {
    return Object.values(this.all).find(({ properties }) => properties?.[name]?.description)?.properties[name].description;
  }

  resolve(schema) {
    const name = schema?.$ref?.split("/").at(-1);
    return name ? { ...this.all[name], ...without(schema, "$ref"), name } : (schema ?? {});
  }

  kind(schema) {
    const { type, name, items, additionalProperties, anyOf } = this.resolve(schema);
    if (schema?.const !== undefined) return JSON.stringify(schema.const);
    if (type === "array") return `list of ${this.kind(items)}`;
    if (additionalProperties) return `object of ${this.kind(additionalProperties)}`;
    if (anyOf) return anyOf.map((one) => this.kind(one)).join(" or ");
    return name ?? type ?? "any";
  }

  example(schema, depth = 0) {
    const whole = this.resolve(schema);
    if (whole.const !== undefined) return whole.const;
    if (whole.examples?.length) return whole.examples[0];
    if (depth > 5) return null;
    if (whole.type === "array") return [this.example(whole.items, depth + 1)];
    if (whole.properties) {
      return Object.fromEntries(
        Object.entries(whole.properties).map(([name, field]) => [name, this.example(field, depth + 1)]),
      );
    }
    if (whole.additionalProperties) return { rest: this.example(whole.additionalProperties, depth + 1) };
    return { string: "", integer: 0, number: 0, boolean: false }[whole.type] ?? null;
  }

  // The fields of an object; those that are objects themselves can be opened.
  fields(schema, depth = 0) {
    const { properties = {}, required = [] } = this.resolve(schema);
    return el(
      "ul",
      { class: "fields" },
      ...Object.entries(properties).map(([name, field]) => this.#field(name, field, required.includes(name), depth)),
    );
  }

  #field(name, schema, must, depth) {
    const inner = this.resolve(schema.items ?? schema.additionalProperties ?? schema);
    const opens = inner.properties && depth < 4;
    return fieldItem({
      name,
      kind: this.kind(schema),
      must,
      said: schema.description,
      inner: opens
        ? el("details", {}, el("summary", {}, `Fields of ${inner.name ?? name}`), this.fields(inner, depth + 1))
        : null,
    });
  }
}

export function fieldItem({ name, kind, must = false, number = null, said, inner = null }) {
  return el(
    "li",
    {},
    el("span", { class: "name" }, name),
    el("span", { class: "kind" }, kind),
    number === null ? null : el("span", { class: "number" }, `= ${number}`),
    must ? el("span", { class: "must" }, "required") : null,
    said ? el("p", {}, ...inline(said)) : null,
    inner,
  );
}

function without(object, name) {
  const { [name]: _, ...rest } = object;
  return rest;
}
