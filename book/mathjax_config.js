// The widgets of Jupyter ask for MathJax 2 to typeset their labels; hand that to the MathJax that is here.
(() => {
  const Hub = { Queue: (...jobs) => jobs.forEach((job) => MathJax.typesetPromise && MathJax.typesetPromise([job[2]])) };
  const ready = () => {
    MathJax.startup.defaultReady();
    MathJax.Hub = Hub;
  };
  window.MathJax = { ...window.MathJax, Hub, startup: { ready } };
})();
