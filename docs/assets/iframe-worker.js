/*
 * Browsers start no worker from a page that was opened from disk. The theme's search asks for the class IFrameWorker
 * instead of Worker there; this one runs the worker's script in a hidden frame.
 */
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      // What the script posts comes out here; what it imports is loaded in order.
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = (...urls) => urls.reduce((before, each) => before.then(() => load(each)), Promise.resolve());
      const load = (each) =>
        new Promise((done, failed) => {
          const script = inside.document.createElement("script");
          script.src = each;
          script.onload = done;
          script.onerror = failed;
          inside.document.body.append(script);
        });
      this.inside = inside;
      this.ready = load(url);
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.inside.frameElement.remove();
    }
  };
  window.Worker = window.IFrameWorker;
}
