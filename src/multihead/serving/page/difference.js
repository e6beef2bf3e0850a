/**
 * Words of one text that do not stand in another one in the same order.
 */

const LONGEST = 400;

/**
 * Cuts `text` at its blanks into parts {text, differs}. A part differs if the longest common subsequence of words does
 * not have it. Beyond 400 words nothing is marked.
 */
export function differing(text, other) {
  const parts = text.split(/(\s+)/).filter(Boolean);
  const words = parts.filter((part) => part.trim());
  const others = other.split(/\s+/).filter(Boolean);
  if (!others.length || words.length > LONGEST || others.length > LONGEST)
    return parts.map((each) => ({ text: each, differs: false }));
  const common = commonWords(words, others);
  let place = 0;
  return parts.map((part) => ({ text: part, differs: part.trim() !== "" && !common.has(place++) }));
}

/** The places in `a` of the longest common subsequence of two lists. */
function commonWords(a, b) {
  const length = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
  const places = new Set();
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) {
      places.add(i++);
      j++;
    } else if (length[i + 1][j] >= length[i][j + 1]) i++;
    else j++;
  }
  return places;
}
