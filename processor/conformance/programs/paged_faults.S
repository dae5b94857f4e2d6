# 32-bit paging: not present, read-only with and without WP, 4 KiB pages below 4 MiB ones, error codes, A and D bits.
# mode: paged
# needs: 32-bit paging
# expect: 0x0e00000e 0x0 0x400000 0x5a 0x0e00000e 0x3 0x400010 0x21 0x61 0x77
.include "protected.inc"
main:
    # 0x400000: a page table at 0x30000, first page -> 0x100000.
    movl $0, 0x30000
    movl $0x30003, 0x10004
    movl %cr3, %eax
    movl %eax, %cr3
    catch 1f
    movb 0x400000, %al
1:  movl $0x100001, 0x30000
    movb $0x5a, 0x100010
    movzbl 0x400010, %eax
    outl %eax, $0x80
    catch 2f
    movb $1, 0x400010
2:  movl 0x30000, %eax
    andl $0x7f, %eax
    outl %eax, $0x80
    movl %cr0, %eax
    andl $0xfffeffff, %eax
    movl %eax, %cr0
    movb $0x77, 0x400010
    movl 0x30000, %eax
    andl $0x7f, %eax
    outl %eax, $0x80
    movzbl 0x100010, %eax
    outl %eax, $0x80
    finish
