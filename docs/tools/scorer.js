// Ranks of the site's search, in the place of Sphinx' own (html_search_scorer). Sphinx finds the pages;
// here a page stands the higher, the more its title or a phrase of docs/search.toml says what was asked.
const FOLDERS = [
  [/^(how-to|start|from)\//, 15],
  [/^(explain|api)\//, 5],
  [/^(decisions|project)\/|^translator/, -300],
];
const pageWords = new Map();

// Stems of a text's words, those with underscores in parts too.
const stemsOf = (text) => {
  const stemmer = new Stemmer();
  const parts = splitQuery(text.replace(/([a-z])([A-Z])/g, "$1 $2").replaceAll("_", " "));
  const words = parts.map((word) => word.toLowerCase()).filter((word) => !stopwords.has(word));
  return new Set(words.map((word) => stemmer.stemWord(word)));
};

// How much two sets have in common: 0 for nothing, 1 if they are equal.
const overlap = (a, b) => {
  const both = [...a].filter((word) => b.has(word)).length;
  return a.size + b.size ? (2 * both) / (a.size + b.size) : 0;
};

// The sets of stems of a page: of its title, and of each phrase.
const setsOf = (page) => {
  if (!pageWords.size) {
    const { docnames, titles, indexentries } = Search._index;
    docnames.forEach((name, i) => pageWords.set(name, { title: stemsOf(titles[i]), phrases: [] }));
    for (const [phrase, places] of Object.entries(indexentries))
      for (const [i] of places) pageWords.get(docnames[i]).phrases.push(stemsOf(phrase));
  }
  return pageWords.get(page);
};

var Scorer = {
  score: ([page, , , , score]) => {
    const asked = new URLSearchParams(window.location.search).get("q");
    const { title, phrases } = setsOf(page);
    const folder = FOLDERS.find(([pattern]) => pattern.test(page));
    // Index entries are in small letters: EarlyStopping is looked for as one word and as two.
    const best = Math.max(
      ...[asked, asked.toLowerCase()].map(stemsOf).map((query) => {
        const ofPhrases = phrases.map((phrase) => overlap(query, phrase));
        return 100 * Math.max(0, ...ofPhrases) + 60 * overlap(query, title);
      }),
    );
    // Sphinx' own scores are 2 to 100, and order pages that are equal otherwise.
    return best + score / 5 + (folder ? folder[1] : 0);
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
