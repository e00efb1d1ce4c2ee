// Loads the page, and all of it again if a file of it did not arrive: a browser breaks off what it loads when a network of
// the machine comes or goes, as those of containers do.

import("/ui/main.js").catch(() => setTimeout(() => location.reload(), 1500));
