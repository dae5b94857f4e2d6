/* What bare-metal test programs share: ports, COM1, the debug-exit port, the multiboot information. */
#pragma once
#include <stdint.h>

#define COM1 0x3f8
#define DEBUG_EXIT 0xf4

/* The part of the multiboot information that the programs read. */
struct information {
    uint32_t flags, mem_lower, mem_upper, boot_device, command_line, module_count, modules;
};

static inline void out8(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void out16(uint16_t port, uint16_t value) { __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }
static inline void out32(uint16_t port, uint32_t value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }

static inline uint8_t in8(uint16_t port) {
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint16_t in16(uint16_t port) {
    uint16_t value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint32_t in32(uint16_t port) {
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void put(char c) {
    while (!(in8(COM1 + 5) & 0x20)) {
    }
    out8(COM1, (uint8_t)c);
}

static inline void print(const char *text) {
    while (*text) put(*text++);
}

static inline void print_number(uint32_t value) {
    char digits[11];
    char *at = digits + 10;
    *at = 0;
    do *--at = (char)('0' + value % 10);
    while (value /= 10);
    print(at);
}

/* Ends the VM; `bulkhead boot` then exits with twice the value plus 1. */
static inline void finish(uint8_t value) { out8(DEBUG_EXIT, value); }

/* Called by start.S. */
void run(uint32_t magic, const struct information *information);
