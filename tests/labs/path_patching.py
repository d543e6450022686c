"""Wrong answers to the labs of path-patching, each with words of the sentence it gets."""

WRONG = {
    "reads": [
        (
            "import numpy as np\n"
            "def reads(clean, corrupted, kept):\n"
            "    return (clean * np.asarray(kept)[:, None, None]).sum(axis=0)\n",
            "corrupted term, not nothing",
        ),
        (
            "import numpy as np\n"
            "def reads(clean, corrupted, kept):\n"
            "    return np.where(np.asarray(kept)[:, None, None], clean, corrupted)\n",
            "yours has shape (3, 4, 5)",
        ),
        (
            "import numpy as np\n"
            "def reads(clean, corrupted, kept):\n"
            "    return np.where(np.asarray(kept)[:, None, None], corrupted, clean).sum(axis=0)\n",
            "something else than the sum of its terms",
        ),
        (
            "import numpy as np\n"
            "def reads(clean, corrupted, kept):\n"
            "    return np.where(np.asarray(kept)[::-1][:, None, None], clean, corrupted).sum(axis=0)\n",
            "with kept = [True, False, False]",
        ),
    ],
    "sweep": [
        (
            "def sweep(order, loss, tau):\n"
            "    whole = loss(list(order))\n"
            "    return [e for e in order if loss([o for o in order if o != e]) - whole >= tau]\n",
            "compare with what is left by then",
        ),
        (
            "def sweep(order, loss, tau):\n"
            "    kept, before = list(order), loss(list(order))\n"
            "    for edge in order:\n"
            "        without = [other for other in kept if other != edge]\n"
            "        if loss(without) - before <= tau:\n"
            "            kept, before = without, loss(without)\n"
            "    return kept\n",
            "exactly τ stays in",
        ),
        (
            "def sweep(order, loss, tau):\n"
            "    kept, before = list(order), loss(list(order))\n"
            "    for edge in order:\n"
            "        without = [other for other in kept if other != edge]\n"
            "        if loss(without) - before < tau:\n"
            "            kept = without\n"
            "    return kept\n",
            "that of what is left now",
        ),
        (
            "def sweep(order, loss, tau):\n"
            "    kept, before = list(order), loss(list(order))\n"
            "    for edge in order:\n"
            "        without = [other for other in kept if other != edge]\n"
            "        if abs(loss(without) - before) < tau:\n"
            "            kept, before = without, loss(without)\n"
            "    return kept\n",
            "whose absence lowers the loss goes",
        ),
        (
            "def sweep(order, loss, tau):\n"
            "    kept, before = list(order), loss(list(order))\n"
            "    for edge in order:\n"
            "        without = [other for other in kept if other != edge]\n"
            "        if loss(without) - before < tau:\n"
            "            kept, before = without, loss(without)\n"
            "    return kept[::-1]\n",
            "b was tried before a",
        ),
        (
            "def sweep(order, loss, tau):\n"
            "    kept, again = list(order), True\n"
            "    while again:\n"
            "        again = False\n"
            "        for edge in list(kept):\n"
            "            without = [other for other in kept if other != edge]\n"
            "            if loss(without) - loss(kept) < tau:\n"
            "                kept, again = without, True\n"
            "    return kept\n",
            "each edge is tried once",
        ),
    ],
    "distance": [
        (
            "import numpy as np\n"
            "def distance(fractions, f, log=False):\n"
            "    x, h = np.asarray(fractions), np.abs(1 - np.asarray(f))\n"
            "    return ((h[1:] + h[:-1]) / 2 * np.diff(x)).sum()\n",
            "divide by the length of the axis",
        ),
        (
            "import numpy as np\n"
            "def distance(fractions, f, log=False):\n"
            "    x, h = np.asarray(fractions), 1 - np.asarray(f)\n"
            "    return ((h[1:] + h[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0])\n",
            "is there an absolute value",
        ),
        (
            "import numpy as np\n"
            "def distance(fractions, f, log=False):\n"
            "    x, h = np.asarray(fractions), np.abs(1 - np.asarray(f))\n"
            "    return ((h[1:] + h[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0])\n",
            "differences of logarithms",
        ),
        (
            "import numpy as np\n"
            "def distance(fractions, f, log=False):\n"
            "    x = np.log(fractions) if log else np.asarray(fractions)\n"
            "    h = np.abs(1 - np.asarray(f))\n"
            "    return ((h[1:] + h[:-1]) / 2 * np.diff(x)).sum() / ((0 if log else 1) - x[0])\n",
            "these sizes end at 0.5",
        ),
        (
            "import numpy as np\n"
            "def distance(fractions, f, log=False):\n"
            "    x = np.log(fractions) if log else np.asarray(fractions)\n"
            "    h = 1 - np.asarray(f)\n"
            "    return (np.abs((h[1:] + h[:-1]) / 2) * np.diff(x)).sum() / (x[-1] - x[0])\n",
            "is there an absolute value",
        ),
    ],
}
