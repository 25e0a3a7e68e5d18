// Of the component with the results: a click on one of them says which row it is.
element.addEventListener("click", (event) => {
  const card = event.target.closest("[data-row]");
  if (card) trigger("click", { row: Number(card.dataset.row) });
});
