// @ts-check
/** Byte-level BPE, as code/residual/files/tokenizer.json describes it: GPT-2's split into words, then bytes, then merges. */

const WORDS = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** The character that stands for each byte: the byte's own if it prints, else the next free one from U+0100 on. */
const CHARACTERS = (() => {
  const printable = (/** @type {number} */ b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let others = 0;
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : 256 + others++));
})();
const BYTES = new Map(CHARACTERS.map((character, byte) => [character, byte]));

/** Return the tokenizer that a tokenizer.json describes: `encode`, text to token ids, and `show`, one id as text.
 * @param {{added_tokens: {id: number, content: string}[], model: {vocab: Record<string, number>, merges: [string, string][]}}} description */
export function tokenizerOf(description) {
  const special = new Map(description.added_tokens.map(({ id, content }) => [content, id]));
  const whole = new RegExp(`(${Array.from(special.keys(), (name) => name.replace(/[|\\{}()[\]^$+*?.]/g, "\\$&")).join("|") || "(?!)"})`);
  const { vocab, merges } = description.model;
  const rank = new Map(merges.map(([a, b], i) => [`${a} ${b}`, i]));
  /** @type {string[]} */
  const names = [];
  for (const [name, id] of Object.entries(vocab)) names[id] = name;

  /** Return the ids of a text's tokens. @param {string} text */
  const encode = (text) => text.split(whole).flatMap((part) => special.get(part) ?? words(part));

  /** Return the ids of a text without special tokens. @param {string} text */
  function words(text) {
    /** @type {number[]} */
    const ids = [];
    for (const word of text.match(WORDS) ?? []) {
      let parts = Array.from(new TextEncoder().encode(word), (byte) => CHARACTERS[byte]);
      for (;;) {
        let best = Infinity, at = -1;
        for (let i = 0; i + 1 < parts.length; i++) {
          const r = rank.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
          if (r < best) [best, at] = [r, i];
        }
        if (at < 0) break;
        // every occurrence of the pair, from the left
        const [a, b] = [parts[at], parts[at + 1]], merged = [];
        for (let i = 0; i < parts.length; i++) {
          if (parts[i] === a && parts[i + 1] === b) merged.push(a + b), i++;
          else merged.push(parts[i]);
        }
        parts = merged;
      }
      ids.push(...parts.map((part) => vocab[part]));
    }
    return ids;
  }

  /** Return a token as text; bytes that are not a character by themselves as ‹e2›. @param {number} id */
  function show(id) {
    const raw = Uint8Array.from(names[id], (character) => BYTES.get(character) ?? 0);
    try {
      return id === 0 ? "⊢" : new TextDecoder("utf-8", { fatal: true }).decode(raw);
    } catch {
      return Array.from(raw, (byte) => `‹${byte.toString(16)}›`).join("");
    }
  }
  return { encode, show };
}
