# Where a bare-metal test program starts: multiboot header, stack, and a call of `run` with the loader's magic and information.
# 32-bit protected mode without paging.

        .set FLAGS, 3                   # modules on pages, memory sizes
        .set MAGIC, 0x1badb002

        .section .text.start, "ax"
        .align 4
        .long MAGIC, FLAGS, -(MAGIC + FLAGS)
        .globl _start
_start: cli
        mov $stack_top, %esp
        push %ebx
        push %eax
        call run
1:      hlt
        jmp 1b

        .bss
        .align 16
        .skip 16384
stack_top:

        .section .note.GNU-stack, "", @progbits
