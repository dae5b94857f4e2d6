/* Says how it was started, then numbers every character from COM1 and sends it back; `q` ends the VM with value 16.
   The number is state that a saved VM must keep. */
#include "bare.h"

void run(uint32_t magic, const struct information *information) {
    print(magic == 0x2badb002 ? "MULTIBOOT " : "UNKNOWN-LOADER ");
    if (information->flags & 4) print((const char *)information->command_line);
    print(" upper=");
    print_number(information->mem_upper);
    if (information->flags & 8 && information->module_count) {
        const uint32_t *module = (const uint32_t *)information->modules;
        print(" module=");
        for (const char *at = (const char *)module[0]; at < (const char *)module[1] && *at != '\n'; at++) put(*at);
    }
    print("\nREADY\n");
    for (uint32_t count = 1;; count++) {
        while (!(in8(COM1 + 5) & 1)) {
        }
        char c = (char)in8(COM1);
        if (c == 'q') finish(16);
        print_number(count);
        put(':');
        put(c);
        put('\n');
    }
}
