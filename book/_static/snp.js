// The widgets still call MathJax 2; hand their formulas to the MathJax 3 of the page, on pages that have one.
// Deferred, so it runs after MathJax.
if (window.MathJax) {
  window.MathJax.Hub = {
    Queue: ([, , element]) => window.MathJax.startup.promise.then(() => window.MathJax.typesetPromise([element])),
  };
}
