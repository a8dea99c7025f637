// Filters and sorts the answers. The page is complete without it: everything is shown, in the order of the evaluation.
(() => {
  const list = document.getElementById("samples");
  if (!list) return;
  const category = document.getElementById("category");
  const sort = document.getElementById("sort");
  const shown = document.getElementById("shown");
  const more = document.getElementById("more");
  const cards = Array.from(list.children);
  const page = 10;
  let room = page;

  const value = (card, key) => (key in card.dataset ? Number(card.dataset[key]) : -Infinity);

  const arrange = () => {
    const down = !sort.value.startsWith("-");
    const key = sort.value.replace("-", "");
    const known = (card) => Number(value(card, key) !== -Infinity);
    cards.sort((a, b) => {
      if (known(a) !== known(b)) return known(b) - known(a);
      if (!known(a)) return 0;
      return down ? value(b, key) - value(a, key) : value(a, key) - value(b, key);
    });
    const wanted = category ? category.value : "";
    let matching = 0;
    for (const card of cards) {
      const matches = !wanted || card.dataset.category === wanted;
      if (matches) matching += 1;
      card.hidden = !matches || matching > room;
      list.append(card);
    }
    const visible = Math.min(room, matching);
    shown.textContent = visible === matching ? `${matching} answers` : `${visible} of ${matching} answers`;
    more.parentElement.hidden = visible === matching;
  };

  const again = () => {
    room = page;
    arrange();
  };
  if (category) category.addEventListener("change", again);
  sort.addEventListener("change", again);
  more.addEventListener("click", () => {
    room += 2 * page;
    arrange();
  });
  sort.closest("p").hidden = false;
  arrange();
})();
