/** Keeps the page's files for when its server is out of reach; `medistill.web.build` writes which these are. */

const BUILD = { cache: "", files: [] };

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(BUILD.cache).then((cache) => cache.addAll(BUILD.files)));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(forgetOthers().then(() => self.clients.claim()));
});

async function forgetOthers() {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name !== BUILD.cache).map((name) => caches.delete(name)));
}

/** The server first, so that another model at the same address is never answered from memory. */
self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET") return;
  event.respondWith(fetch(event.request).catch(() => kept(event.request)));
});

async function kept(request) {
  const found = await caches.match(request, { ignoreSearch: true });
  return found ?? Response.error();
}
