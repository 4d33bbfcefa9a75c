import { defineConfig } from "vite";

// Relative addresses, so that the page works in any folder of a site. The networks lie beside the page, in networks/.
export default defineConfig({
  base: "./",
  build: {
    outDir: "../src/dynaconv/explore/page",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 2000,
  },
});
