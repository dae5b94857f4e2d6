# An instruction and an operand across a page boundary, and a fault while fetching the second half.
# mode: long
# expect: 0x12345678 0x55667788 0x0e00000e 0x10 0x601000
.include "long.inc"
main:
    # MOV EAX, imm32; RET across 0x100000.
    movl $0x5678b8, 0xffffd
    movl $0xc31234, 0x100000
    movl $0xffffd, %ebx
    callq *%rbx
    outl %eax, $0x80
    movl $0x55667788, 0x100ffe
    movl 0x100ffe, %eax
    outl %eax, $0x80
    # 0x600000 is there, 0x601000 is not.
    movq $0x100003, 0x30000
    movq $0, 0x30008
    movq $0x30003, 0x12018
    movq %cr3, %rax
    movq %rax, %cr3
    movb $0xb8, 0x600fff
    catch 2f
    movl $0x600fff, %ebx
    jmpq *%rbx
2:  finish
