# Code that changes itself: the next instruction, an instruction of the running block, and another page's alias.
# mode: long
# expect: 0x1 0x2 0x3 0x64 0x7
.include "long.inc"
main:
    movl $1, %eax
    outl %eax, $0x80
    movl $2, patch1 + 1
    jmp patch1
patch1:
    movl $0, %eax
    outl %eax, $0x80
    # In the same straight line.
    movb $3, patch2 + 1
patch2:
    movl $0, %eax
    outl %eax, $0x80
    # A hundred times.
    xorl %ebx, %ebx
    movl $100, %ecx
1:  movl %ecx, patch3 + 2
patch3:
    # ADD EBX, imm32
    .byte 0x81, 0xc3, 0, 0, 0, 0
    loop 1b
    cmpl $5050, %ebx
    movl $0, %eax
    jne 2f
    movl $100, %eax
2:  outl %eax, $0x80
    # Through another linear address of the same memory.
    movq $0x000083, 0x12018
    movq %cr3, %rax
    movq %rax, %cr3
    movb $7, 0x600000 + patch4 + 1
patch4:
    movl $0, %eax
    outl %eax, $0x80
    finish
