// Protobuf's wire format for the messages of chat.proto: objects with the fields' names, to bytes and back.
//
// It knows what our file uses: proto3 scalars, enums (as their names), messages, repeated and optional fields, not maps.
// A field that is not set is absent, as in the JSON form; unknown fields are skipped: that is how the contract grows.

import { decode as text, encode as utf8 } from "./text.js";

const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
const FIXED32 = 5;
const VARINTS = new Set(["int32", "int64", "uint32", "uint64", "bool"]);

export class Protobuf {
  #fields = {};
  #numbers = {};
  #names = {};

  constructor({ messages, enums }) {
    for (const { name, fields } of messages) {
      this.#fields[name] = fields
        .filter(({ type }) => !type.startsWith("map"))
        .map((field) => ({ ...field, enum: enums[`${name}.${field.type}`] ? `${name}.${field.type}` : null }));
    }
    for (const [name, { values }] of Object.entries(enums)) {
      this.#numbers[name] = Object.fromEntries(values.map((value) => [value.name, value.number]));
      this.#names[name] = Object.fromEntries(values.map((value) => [value.number, value.name]));
    }
  }

  encode(type, message) {
    const bytes = [];
    for (const field of this.#fields[type]) {
      const value = message[field.name];
      if (value === undefined || value === null) continue;
      for (const one of field.label === "repeated" ? value : [value]) this.#put(bytes, field, one);
    }
    return Uint8Array.from(bytes);
  }

  #put(bytes, { number, type, enum: named }, value) {
    if (named || VARINTS.has(type)) {
      putVarint(bytes, (number << 3) | VARINT);
      return putVarint(bytes, named ? this.#numbers[named][value] : Number(value));
    }
    if (type === "double") {
      putVarint(bytes, (number << 3) | FIXED64);
      return bytes.push(...new Uint8Array(new Float64Array([value]).buffer));
    }
    const inner = type === "string" ? utf8(value) : this.encode(type, value);
    putVarint(bytes, (number << 3) | BYTES);
    putVarint(bytes, inner.length);
    for (const byte of inner) bytes.push(byte);
  }

  decode(type, bytes) {
    const message = {};
    const fields = new Map(this.#fields[type].map((field) => [field.number, field]));
    const reader = new Reader(bytes);
    while (!reader.ended) {
      const key = reader.varint();
      const raw = reader.value(key & 7);
      const field = fields.get(key >> 3);
      if (!field) continue;
      const value = this.#value(field, raw);
      if (field.label === "repeated") (message[field.name] ??= []).push(value);
      else message[field.name] = value;
    }
    return message;
  }

  #value({ type, enum: named }, raw) {
    if (named) return this.#names[named][raw] ?? raw;
    if (type === "bool") return raw !== 0;
    if (type === "double") return new DataView(raw.buffer, raw.byteOffset, 8).getFloat64(0, true);
    if (type === "string") return text(raw);
    return VARINTS.has(type) ? raw : this.decode(type, raw);
  }
}

function putVarint(bytes, value) {
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  bytes.push(value);
}

class Reader {
  #at = 0;

  constructor(bytes) {
    this.bytes = bytes;
  }

  get ended() {
    return this.#at >= this.bytes.length;
  }

  varint() {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.bytes[this.#at++];
      if (byte === undefined) break;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return Number(BigInt.asIntN(64, value));
    }
    throw new Error("a message of the server is cut off");
  }

  value(kind) {
    if (kind === VARINT) return this.varint();
    const length = { [FIXED64]: 8, [FIXED32]: 4 }[kind] ?? this.varint();
    if (this.#at + length > this.bytes.length) throw new Error("a message of the server is cut off");
    return this.bytes.subarray(this.#at, (this.#at += length));
  }
}
