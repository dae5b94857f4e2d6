# The whole way up: real mode, protected mode, PAE, long mode, and reports from each.
# mode: real
# needs: MOV CR0 with PG in protected mode
# expect: 0x16 0x32 0x64 0xd01
.include "real.inc"
main:
    report $0x16
    # Page tables: one gigabyte page directory of 2 MiB pages, as in the layout of 64-bit programs.
    movl $0x20000, %edi
    movw $0x2000, %ax
    movw %ax, %es
    movl $0x21007, %es:(0)
    movl $0x22007, %es:(0x1000)
    movl $0x87, %es:(0x2000)
    lgdtl pointer
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x18, $thirty_two
.code32
thirty_two:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %ss
    report $0x32
    movl $0x20, %eax
    movl %eax, %cr4
    movl $0x20000, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    movl $0x901, %eax
    xorl %edx, %edx
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    ljmpl $0x08, $sixty_four
.code64
sixty_four:
    report $0x64
    movl $0xc0000080, %ecx
    rdmsr
    outl %eax, $0x80
    finish
pointer:
    .word 0x57
    .long 0x500
