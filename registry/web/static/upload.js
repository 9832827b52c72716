// Drops go into the file field, so that the form stays an ordinary form.
const drop = document.getElementById("drop");
const field = document.getElementById("files");
const chosen = document.getElementById("chosen");

function show() {
  chosen.replaceChildren(
    ...Array.from(field.files, (file) => {
      const item = document.createElement("li");
      item.textContent = `${file.name}, ${file.size.toLocaleString()} bytes`;
      return item;
    }),
  );
}

field?.addEventListener("change", show);
drop?.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
drop?.addEventListener("dragleave", () => drop.classList.remove("over"));
drop?.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  field.files = event.dataTransfer.files;
  show();
});
