/* Hammers devices with random port and memory accesses. The command line is the seed; with an odd one
   the ports that reset the machine are left alone. After 2^18 accesses it ends the VM with value 17, if it lives so long: nothing is sacred, and a random access may switch the VM off, reset it, or overwrite the program. */
#include "bare.h"

static uint32_t state;
/* Whether the ports that reset the machine are left alone, so that the run is longer. */
static int gentle;

static uint32_t next(void) {
    state ^= state << 13;
    state ^= state >> 17;
    return state ^= state << 5;
}

/* Ranges with devices behind them: first port and a mask of offsets. */
static const struct { uint16_t first, mask; } PORTS[] = {
    {0x00, 0x1f}, {0x20, 1},  {0x40, 3},   {0x60, 7},    {0x70, 3},    {0x80, 0x1f},  {0xa0, 1},     {0xc0, 0x1f},
    {0x170, 7},   {0x1f0, 7}, {0x2f8, 7},  {0x3b0, 0xf}, {0x3c0, 0x1f}, {0x3f0, 0xf}, {0x4d0, 1},    {0x510, 0xf},
    {0x600, 63},  {0x700, 63}, {0xc000, 63}, {0xcf8, 7},  {0x376, 1},   {0x1ce, 3},
};

/* Windows of memory: display, its frame buffer, I/O APIC, HPET, local APIC, firmware, PCI. */
static const uint32_t WINDOWS[] = {0xa0000, 0xb8000, 0xc0000, 0xf0000, 0xe0000000, 0xfd000000, 0xfec00000, 0xfed00000, 0xfee00000, 0xfffc0000};

static uint16_t port(void) {
    uint32_t choice = next();
    if (choice & 0x10000) return (uint16_t)choice;
    uint32_t index = (choice >> 8) % (sizeof PORTS / sizeof PORTS[0]);
    return (uint16_t)(PORTS[index].first + (choice & PORTS[index].mask));
}

static volatile uint32_t *place(void) {
    uint32_t choice = next();
    return (volatile uint32_t *)(WINDOWS[(choice >> 16) % (sizeof WINDOWS / sizeof WINDOWS[0])] + (choice & 0xffff));
}

static void access(void) {
    static uint8_t buffer[512];
    uint16_t to = port();
    uint32_t value = next();
    /* The exit port would make every run short. */
    if (to >= DEBUG_EXIT - 3 && to < DEBUG_EXIT + 4) return;
    if (gentle && ((to >= 0x61 && to <= 0x64) || (to >= 0x8f && to <= 0x92) || (to >= 0xcf6 && to <= 0xcf9) || (to >= 0x601 && to <= 0x605))) return;
    void *at = buffer;
    uint32_t count = value & 127;
    switch (next() % 12) {
    case 0: case 1: out8(to, (uint8_t)value); break;
    case 2: out16(to, (uint16_t)value); break;
    case 3: out32(to, value); break;
    case 4: case 5: in8(to); break;
    case 6: in16(to); break;
    case 7: in32(to); break;
    case 8: __asm__ volatile("rep insl" : "+D"(at), "+c"(count) : "d"(to) : "memory"); break;
    case 9: __asm__ volatile("rep outsw" : "+S"(at), "+c"(count) : "d"(to) : "memory"); break;
    case 10: *place() = value; break;
    case 11: *(volatile uint8_t *)place(); break;
    }
}

void run(uint32_t magic, const struct information *information) {
    (void)magic;
    for (const char *at = (const char *)information->command_line; *at >= '0' && *at <= '9'; at++) state = state * 10 + (uint32_t)(*at - '0');
    gentle = state & 1;
    state = state * 2654435761u | 1;
    print("HAMMER\n");
    for (uint32_t count = 0; count < 1u << 18; count++) access();
    finish(17);
}
