"""The engine of the worlds on a grid, and how to write a world on it.

| module | content |
|---|---|
| `geometry` | maps from lists of cells, windows, footprints of beams (NumPy) |
| `avatars` | state of the avatars, timers, moves, the three resolvers, placing |
| `beams` | firing: which cells are lit, whom it hits |
| `sites` | vectors of resource sites: chances, uniform choice, spreading over the map |
| `boards` | painting things into the map without a scatter |
| `view` | code map, windows, channels |
| `apart` | keeps XLA from computing a view once for every channel |
| `routes`, `paths` | shortest ways, for scripted policies |
| `scripted` | other parts of scripted policies |
| `frame` | state of a world, and what the phases of a step hand on |
| `world` | `GridWorld`, the base class, and its hooks |
| `viewer` | the picture |

A world is a `flax.struct.dataclass` that extends `GridWorld`:

    @functools.lru_cache
    def _meadow() -> Terrain:
        return geometry.terrain(5, 9, walls=geometry.block(2, (0, 3)), spawns=geometry.block(4, (0, 8)))

    SITES = np.array([3, 5, 12])                         # flat cells, row * 9 + column

    @struct.dataclass
    class Meadow(GridWorld):
        players: int = field(3, static=True, doc="number of agents")
        rate: float = field(0.1, doc="probability that an apple grows")

        @property
        def terrain(self): return _meadow()

        @property
        def beams(self): return (Beam("zap", length=3, radius=1, wait=10),)   # action 7

        @property
        def resource_channels(self): return ("apple",)

        @property
        def num_words(self): return len(SITES)           # random words a step

        def begin(self, drawn): return jnp.zeros(len(SITES), bool)

        def grow(self, frame):                           # phase 2
            return frame.holding(frame.resources | sites.chance(frame.words, self.rate))

        def enter(self, frame):                          # phase 4
            on = sites.standing(SITES, cells(frame.avatars, self.terrain)) & frame.resources[:, None]
            return frame.holding(frame.resources & ~on.any(1)).paid(on.any(0).astype(jnp.float32))

        def strike(self, frame, beam, shot):             # phase 5: hit avatars are out for 50 steps
            return frame.replace(avatars=avatars.remove(frame.avatars, shot.hits.any(0), 50))

        def resource_code(self, state):                  # [H, W], bit c is channel c of resource_channels
            return sites.spread(state.resources, SITES, 5, 9)

Everything is written for one environment; the batch is `vmap`'s. What keeps it fast: compare instead of scatter and
sort, small integers in the state, look-ups in constant tables, and no Python loop over agents.
"""
